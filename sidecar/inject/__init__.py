"""The Kubernetes admission webhook: a pod becomes a pod with a sidecar."""
