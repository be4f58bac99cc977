"""Control flow that is decided before the model runs: branches and loop bodies moved into the enclosing graph."""
