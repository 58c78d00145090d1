"""Every way to name a model for `synrep evaluate MODEL`: one file, one way. `benchmark.models._load` finds them."""
