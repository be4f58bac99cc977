"""The presets: pipelines known by a name."""

from graphopt.passes.registry import Entry, add

_CLEAN = "fold-shapes,simplify,control-flow,drop-loop-states,fold-constants,deduplicate,cse"
_LOOPS = "hoist-loop-invariants,hoist-loop-rows"
_FUSE = f"inline-functions,lift-constants,dead-code,({_CLEAN},recognition,fusion,collapse)*4,{_LOOPS},fuse-horizontal"
_LAST = "runtime,lift-constants,deduplicate,dead-code"
PRESETS = {
    "cleanup": (
        "Removes what does nothing and computes what is constant; changes no weights.",
        f"inline-functions,lift-constants,dead-code,({_CLEAN})*4,dead-code",
    ),
    "fuse": (
        "Fusion (Conv+BN+ReLU, affine operators, Pad, operators written out, siblings, loops) and the clean-up for it.",
        f"{_FUSE},{_LAST}",
    ),
    "default": (
        "Everything that is always right and never slower, for this target.",
        f"{_FUSE},forms,conv1d-as-image,simplify,expand-unsupported,lowering,narrow-int64,{_LAST}",
    ),
}

for _name, (_doc, _text) in PRESETS.items():
    add(Entry(_name, "preset", f"{_doc}\n\n    {_text}", {}, lambda text=_text: text, __name__))
