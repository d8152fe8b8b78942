"""The machine under it all: processor and GPUs, Keras's backends, files written whole, locks, signals."""
