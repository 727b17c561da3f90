"""This machine: where a plane's files lie, what was started, processes and ports, the supervisor, sockets."""
