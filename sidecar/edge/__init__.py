"""The doors: translate a request in, authorize it, translate the outcome out."""
