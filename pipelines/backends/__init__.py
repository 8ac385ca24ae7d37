"""One vendor per file, each behind a port of `pipelines.ports`."""
