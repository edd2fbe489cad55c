"""Jobs are tested as processes, on the session's cluster."""
