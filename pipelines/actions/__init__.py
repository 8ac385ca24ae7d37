"""What touches the world outside a workspace: fetch, snapshot, promote, rollback, pull, ask."""
