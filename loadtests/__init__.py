"""Under load: `bench` beside other proxies, `soak` for long; `micro` is in process."""
