"""The presets: pipelines known by a name."""

from graphopt.passes.registry import Entry, add

_CLEAN = "fold-shapes,simplify,control-flow,fold-constants,deduplicate,cse"
PRESETS = {
    "cleanup": (
        "Removes what does nothing and computes what is constant; changes no weights.",
        f"inline-functions,lift-constants,dead-code,({_CLEAN})*4,dead-code",
    ),
    "fuse": (
        "Fusion (Conv+BN+ReLU, affine operators, Pad, operators written out, siblings) and the clean-up that it needs.",
        f"inline-functions,lift-constants,dead-code,({_CLEAN},recognition,fusion,collapse)*4,fuse-horizontal,runtime,lift-constants,deduplicate,dead-code",
    ),
    "default": (
        "Everything that is always right and never slower, for this target.",
        f"inline-functions,lift-constants,dead-code,({_CLEAN},recognition,fusion,collapse)*4,fuse-horizontal,forms,simplify,runtime,lift-constants,deduplicate,dead-code",
    ),
}

for _name, (_doc, _text) in PRESETS.items():
    add(Entry(_name, "preset", f"{_doc}\n\n    {_text}", {}, lambda text=_text: text, __name__))
