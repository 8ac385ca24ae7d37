"""Other people's pipelines beside ours, for `benchmarks.embed`. A `.txt` here pins the packages of one of them."""
