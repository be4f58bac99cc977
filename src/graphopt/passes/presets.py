"""The presets: pipelines known by a name."""

from graphopt.passes.registry import Entry, add

PRESETS = {
    "cleanup": (
        "Removes what does nothing and computes what is constant; changes no weights.",
        "inline-functions,lift-constants,dead-code,(fold-shapes,simplify,control-flow,fold-constants,deduplicate,cse)*4,dead-code",
    ),
    "fuse": (
        "Vertical fusion (Conv+BN+ReLU, biases, affine operators, Pad) and the clean-up that it needs.",
        "inline-functions,lift-constants,dead-code,(fold-shapes,simplify,control-flow,fold-constants,deduplicate,cse,fusion)*4,runtime,deduplicate,dead-code",
    ),
    "default": (
        "Everything that is always right and never slower, for this target.",
        "inline-functions,lift-constants,dead-code,(fold-shapes,simplify,control-flow,fold-constants,deduplicate,cse,fusion)*4,runtime,deduplicate,dead-code",
    ),
}

for _name, (_doc, _text) in PRESETS.items():
    add(Entry(_name, "preset", f"{_doc}\n\n    {_text}", {}, lambda text=_text: text, __name__))
