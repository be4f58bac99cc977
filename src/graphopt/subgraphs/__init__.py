"""Parts of models: taken out, put back, cut apart, joined; see docs/subgraphs.md."""
