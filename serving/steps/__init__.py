"""Steps and memories, whoever asks and by whatever door: knows neither HTTP nor gRPC."""
