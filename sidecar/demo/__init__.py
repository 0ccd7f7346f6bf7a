"""The whole system on loopback: a demo issuer, a sample bank, a control plane, a sidecar."""
