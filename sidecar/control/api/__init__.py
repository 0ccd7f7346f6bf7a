"""The Admin service as JSON over HTTP: the same methods, the same doors, another spelling."""
