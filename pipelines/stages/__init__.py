"""File in, file out: one module per stage of dvc.yaml, each with `run(params, workspace, *, ports) -> Report`."""
