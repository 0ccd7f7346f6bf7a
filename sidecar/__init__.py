"""An edge authorization sidecar: validate locally, decide locally, forward or challenge."""

__version__ = "0.1.0"
API_VERSION = "authz.sidecar/v1"
