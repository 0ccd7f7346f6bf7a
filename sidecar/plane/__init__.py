"""The data plane's parts, wired as one process (`app`) or as a supervisor and its workers."""
