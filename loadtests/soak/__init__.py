"""The sidecar for long under steady load and churn: `make soak`."""
