"""The sidecar side by side with the proxies installed here: `make bench`."""
