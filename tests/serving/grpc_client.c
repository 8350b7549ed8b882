/* A gRPC client on nghttp2 alone, which shares no code with grpcio: what it sees is what is on the
 * wire. One call a run:
 *
 *     grpc_client HOST PORT PATH [option]... < messages
 *
 * Standard input holds the messages as they go over the wire (five bytes of head each). A message
 * is sent when the answer to the one before has come; then the client half-closes.
 *
 *     -t TIMEOUT   the header grpc-timeout
 *     -h NAME=VAL  another header; "te=" leaves te out
 *     -o           keep the stream open: never half-close
 *     -a           send all messages at once
 *     -r N         reset the stream with CANCEL when N answers have come (0: when all is sent)
 *     -p           afterwards PING, and wait for the answer: the connection must have survived
 *
 * Prints, a line each: "header NAME VALUE", "message HEX", "trailer NAME VALUE" (a block of headers
 * that ends the stream counts as trailers), "closed CODE" (HTTP/2's error code), "pong".
 * Exits 0 when the stream is over, 1 if the connection broke, 2 for bad use or after ten seconds. */

#include <arpa/inet.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX = 1 << 24, MAX_HEADERS = 16, LIMIT_MS = 10000 };

static struct {
    uint8_t *out, *in;        /* messages to send, and what has come of an answer */
    size_t n_out, sent, allowed, n_in;
    int answers, keep_open, all, reset_at, closed, ponged, trailing, deferred;
    int32_t stream;
    nghttp2_session *session;
} c;

static size_t message_size(const uint8_t *head) {
    return 5 + ((size_t)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4]);
}

/* May one message more leave, or the end? */
static void allow_next(void) {
    if (c.allowed < c.n_out)
        c.allowed += c.n_out - c.allowed < 5 ? c.n_out - c.allowed : message_size(c.out + c.allowed);
    if (c.allowed > c.n_out || c.all) c.allowed = c.n_out;
    if (c.deferred) nghttp2_session_resume_data(c.session, c.stream);
    c.deferred = 0;
}

static void reset(void) {
    nghttp2_submit_rst_stream(c.session, NGHTTP2_FLAG_NONE, c.stream, NGHTTP2_CANCEL);
}

static ssize_t read_body(nghttp2_session *s, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *user) {
    (void)s, (void)id, (void)source, (void)user;
    size_t n = c.allowed - c.sent < room ? c.allowed - c.sent : room;
    memcpy(to, c.out + c.sent, n);
    c.sent += n;
    if (c.sent == c.n_out && !c.keep_open && (c.answers || c.all || c.n_out == n)) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (!n) {
        c.deferred = 1;
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static int on_frame_send(nghttp2_session *s, const nghttp2_frame *frame, void *user) {
    (void)s, (void)user;
    if (frame->hd.type == NGHTTP2_DATA && c.sent == c.n_out && c.reset_at == 0) {
        c.reset_at = -1;
        reset();
    }
    return 0;
}

static int on_begin_headers(nghttp2_session *s, const nghttp2_frame *frame, void *user) {
    (void)s, (void)user;
    c.trailing = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    return 0;
}

static int on_header(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name, size_t n,
                     const uint8_t *value, size_t m, uint8_t flags, void *user) {
    (void)s, (void)frame, (void)flags, (void)user;
    printf("%s %.*s %.*s\n", c.trailing ? "trailer" : "header", (int)n, name, (int)m, value);
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data, size_t n,
                   void *user) {
    (void)s, (void)flags, (void)id, (void)user;
    if (c.n_in + n > MAX) return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(c.in + c.n_in, data, n);
    c.n_in += n;
    while (c.n_in >= 5 && c.n_in >= message_size(c.in)) {
        size_t size = message_size(c.in);
        printf("message ");
        for (size_t i = 5; i < size; i++) printf("%02x", c.in[i]);
        printf("\n");
        memmove(c.in, c.in + size, c.n_in -= size);
        c.answers++;
        if (c.answers == c.reset_at) reset();
        allow_next();
    }
    return 0;
}

static int on_frame_recv(nghttp2_session *s, const nghttp2_frame *frame, void *user) {
    (void)s, (void)user;
    if (frame->hd.type == NGHTTP2_PING && frame->hd.flags & NGHTTP2_FLAG_ACK) c.ponged = 1;
    return 0;
}

static int on_close(nghttp2_session *s, int32_t id, uint32_t code, void *user) {
    (void)s, (void)id, (void)user;
    printf("closed %u\n", code);
    c.closed = 1;
    return 0;
}

static int connect_to(const char *host, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1) return -1;
    return fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) ? -1 : fd;
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Move bytes until `*done`. 0, or the status to exit with. */
static int run(int fd, const int *done, long deadline) {
    static uint8_t buffer[65536];
    const uint8_t *out;
    while (!*done) {
        ssize_t n;
        while ((n = nghttp2_session_mem_send(c.session, &out)) > 0)
            if (write(fd, out, n) != n) return 1;
        if (n < 0) return 1;
        if (*done) return 0;
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (now_ms() > deadline || poll(&wait, 1, deadline - now_ms() + 1) <= 0) return 2;
        if ((n = read(fd, buffer, sizeof buffer)) <= 0) return 1;
        if (nghttp2_session_mem_recv(c.session, buffer, n) < 0) return 1;
    }
    return 0;
}

static nghttp2_nv field(char *name, char *value) {
    nghttp2_nv nv = {(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), 0};
    return nv;
}

int main(int argc, char **argv) {
    char *te = "trailers", *extra[MAX_HEADERS];
    int n_extra = 0, ping = 0, option;
    char *timeout = NULL;
    c.reset_at = -1;
    while ((option = getopt(argc, argv, "t:h:oar:p")) != -1) {
        if (option == 't') timeout = optarg;
        else if (option == 'h' && n_extra < MAX_HEADERS - 8) extra[n_extra++] = optarg;
        else if (option == 'o') c.keep_open = 1;
        else if (option == 'a') c.all = 1;
        else if (option == 'r') c.reset_at = atoi(optarg);
        else if (option == 'p') ping = 1;
        else return 2;
    }
    if (argc - optind != 3 || !(c.out = malloc(MAX)) || !(c.in = malloc(MAX))) return 2;
    for (size_t n; (n = fread(c.out + c.n_out, 1, MAX - c.n_out, stdin)) > 0;) c.n_out += n;
    allow_next();

    int fd = connect_to(argv[optind], atoi(argv[optind + 1]));
    if (fd < 0) return 1;
    nghttp2_session_callbacks *calls;
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_frame_send_callback(calls, on_frame_send);
    nghttp2_session_callbacks_set_on_begin_headers_callback(calls, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
    nghttp2_session_client_new(&c.session, calls, NULL);
    nghttp2_submit_settings(c.session, NGHTTP2_FLAG_NONE, NULL, 0);

    nghttp2_nv fields[MAX_HEADERS] = {field(":method", "POST"), field(":scheme", "http"),
                                      field(":path", argv[optind + 2]), field(":authority", "x"),
                                      field("content-type", "application/grpc")};
    int n = 5;
    if (timeout) fields[n++] = field("grpc-timeout", timeout);
    for (int i = 0; i < n_extra; i++) {
        char *equals = strchr(extra[i], '=');
        if (!equals) return 2;
        *equals = 0;
        if (!strcmp(extra[i], "te")) te = equals + 1;
        else fields[n++] = field(extra[i], equals + 1);
    }
    if (*te) fields[n++] = field("te", te);
    nghttp2_data_provider body = {.read_callback = read_body};
    c.stream = nghttp2_submit_request(c.session, NULL, fields, n, &body, NULL);

    long deadline = now_ms() + LIMIT_MS;
    int status = run(fd, &c.closed, deadline);
    if (!status && ping) {
        nghttp2_submit_ping(c.session, NGHTTP2_FLAG_NONE, NULL);
        status = run(fd, &c.ponged, deadline);
        if (!status) printf("pong\n");
    }
    close(fd);
    return status;
}
