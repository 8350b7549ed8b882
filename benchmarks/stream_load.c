/* Callers over bidirectional gRPC streams, each of which sends its next message when the answer to
 * the one before has come: what h2load cannot do, in a language that does not hold servers up.
 *
 *     stream_load HOST PORT PATH CONNECTIONS STREAMS SECONDS FIRST NEXT
 *
 * STREAMS are of each connection; FIRST and NEXT are files of one message each, without the five
 * bytes before it. Prints {"n", "seconds", "p50_ms", "p99_ms"} of the answers that came within the
 * time; exits 1 if a stream ended or a connection broke. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 256, MAX_MESSAGE = 1 << 20, MAX_TIMES = 1 << 24 };

struct connection {
    nghttp2_session *session;
    int fd;
    const uint8_t *rest;
    size_t n_rest;
};
struct stream {
    const uint8_t *out;
    size_t n_out, sent, n_in, wanted;
    uint8_t head[5];
    double since;
    int deferred;
};
struct message {
    uint8_t bytes[MAX_MESSAGE];
    size_t n;
};

static struct message first, next;
static float *times;
static size_t n_times;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "stream_load: %s\n", what);
    exit(1);
}

static void load(const char *path, struct message *to) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("no such file");
    size_t n = fread(to->bytes + 5, 1, MAX_MESSAGE - 5, file);
    fclose(file);
    uint8_t head[5] = {0, n >> 24, n >> 16, n >> 8, n};
    memcpy(to->bytes, head, 5);
    to->n = n + 5;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user) {
    (void)session, (void)id, (void)flags, (void)user;
    struct stream *s = source->ptr;
    size_t n = s->n_out - s->sent < room ? s->n_out - s->sent : room;
    if (!n) {
        s->deferred = 1;
        return NGHTTP2_ERR_DEFERRED;
    }
    memcpy(to, s->out + s->sent, n);
    s->sent += n;
    return (ssize_t)n;
}

static void say_next(nghttp2_session *session, int32_t id, struct stream *s) {
    double t = now();
    if (n_times < MAX_TIMES) times[n_times++] = t - s->since;
    s->since = t;
    s->out = next.bytes, s->n_out = next.n, s->sent = 0, s->n_in = 0;
    if (s->deferred) nghttp2_session_resume_data(session, id);
    s->deferred = 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                   size_t n, void *user) {
    (void)flags, (void)user;
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    for (size_t i = 0; i < n;) {
        if (s->n_in < 5) {
            s->head[s->n_in++] = data[i++];
            s->wanted = 5 + (((size_t)s->head[1] << 24) | s->head[2] << 16 | s->head[3] << 8 | s->head[4]);
            if (s->n_in < 5) continue;
        }
        size_t take = s->wanted - s->n_in < n - i ? s->wanted - s->n_in : n - i;
        s->n_in += take, i += take;
        if (s->n_in == s->wanted) say_next(session, id, s);
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user) {
    (void)session, (void)id, (void)code, (void)user;
    fail("a stream has ended");
    return 0;
}

static void flush(struct connection *c) {
    for (;;) {
        if (!c->n_rest) {
            ssize_t n = nghttp2_session_mem_send(c->session, &c->rest);
            if (n < 0) fail("nghttp2");
            if (!n) return;
            c->n_rest = n;
        }
        ssize_t n = write(c->fd, c->rest, c->n_rest);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) fail("a connection broke");
        c->rest += n, c->n_rest -= n;
    }
}

static nghttp2_nv field(const char *name, const char *value) {
    nghttp2_nv nv = {(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), 0};
    return nv;
}

static void open_streams(struct connection *c, char **argv, int n) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("no connection");
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    nghttp2_session_callbacks *calls;
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
    nghttp2_session_client_new(&c->session, calls, NULL);
    nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, NULL, 0);
    nghttp2_nv fields[] = {field(":method", "POST"), field(":scheme", "http"),
                           field(":path", argv[3]), field(":authority", "x"),
                           field("content-type", "application/grpc"), field("te", "trailers")};
    for (int i = 0; i < n; i++) {
        struct stream *s = calloc(1, sizeof *s);
        s->out = first.bytes, s->n_out = first.n, s->since = now();
        nghttp2_data_provider body = {.source.ptr = s, .read_callback = read_body};
        nghttp2_submit_request(c->session, NULL, fields, 6, &body, s);
    }
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static struct connection connections[MAX_CONNECTIONS];
    static struct pollfd waits[MAX_CONNECTIONS];
    static uint8_t buffer[1 << 16];
    if (argc != 9) fail("bad use");
    int n = atoi(argv[4]);
    double seconds = atof(argv[6]);
    if (n < 1 || n > MAX_CONNECTIONS || !(times = malloc(MAX_TIMES * sizeof *times))) fail("bad use");
    load(argv[7], &first), load(argv[8], &next);
    for (int i = 0; i < n; i++) open_streams(&connections[i], argv, atoi(argv[5]));
    double start = now(), end = start + seconds;
    while (now() < end) {
        for (int i = 0; i < n; i++) {
            flush(&connections[i]);
            waits[i].fd = connections[i].fd;
            waits[i].events = POLLIN | (connections[i].n_rest ? POLLOUT : 0);
        }
        if (poll(waits, n, 100) < 0) fail("poll");
        for (int i = 0; i < n; i++) {
            if (!(waits[i].revents & (POLLIN | POLLERR | POLLHUP))) continue;
            ssize_t got = read(connections[i].fd, buffer, sizeof buffer);
            if (got <= 0 && !(got < 0 && errno == EAGAIN)) fail("a connection broke");
            if (got > 0 && nghttp2_session_mem_recv(connections[i].session, buffer, got) < 0)
                fail("nghttp2");
        }
    }
    seconds = now() - start;
    qsort(times, n_times, sizeof *times, by_size);
    if (!n_times) fail("no answer");
    printf("{\"n\": %zu, \"seconds\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", n_times, seconds,
           1e3 * times[n_times / 2], 1e3 * times[n_times * 99 / 100]);
    return 0;
}
