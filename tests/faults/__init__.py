"""Links that break, disks that fill, processes that are killed, and a control plane that lies."""
