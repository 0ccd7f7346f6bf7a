"""What puts a sidecar into a pod, and in the way of everything that reaches it."""
