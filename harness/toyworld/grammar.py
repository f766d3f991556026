"""The toy world's language: captions to scenes and back.

    caption := object ["on" object] ["," VIEW "view"]
    object  := ("a"|"an") [PATTERN] COLOUR NOUN ["with" ["a"|"an"] COLOUR PART]

A caption names one object, at most one of its parts, and at most one thing it stands on.
"""

import difflib
import random
from dataclasses import dataclass, replace

from harness.config import UserError
from harness.guidance.views import VIEWS
from harness.prompt import normalised

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
PATTERNS = ("striped", "spotted")


@dataclass(frozen=True)
class Kind:
    """What can be said of one class of objects: its noun, its parts and whether it can carry or be carried.

    parts maps a part's word to its usual colour; None means the object's own colour.
    """

    noun: str
    parts: dict[str, str | None]
    patterns: bool = True
    item: bool = False
    support: bool = False


KINDS: dict[str, Kind] = {
    k.noun: k
    for k in (
        Kind("car", {"wheels": "black", "roof": None}),
        Kind("truck", {"wheels": "black", "cab": None}),
        Kind("bus", {"wheels": "black", "roof": None}),
        Kind("train", {"wheels": "black", "chimney": "black"}),
        Kind("airplane", {"wings": None, "tail": None}),
        Kind("boat", {"sail": "white"}),
        Kind("chair", {"legs": "brown", "back": None}, patterns=False),
        Kind("bench", {"legs": "black"}, patterns=False, support=True),
        Kind("couch", {"cushions": None}),
        Kind("table", {"legs": "brown"}, patterns=False, support=True),
        Kind("bed", {"pillow": "white"}),
        Kind("tv", {"screen": "black"}, patterns=False),
        Kind("laptop", {"screen": "blue"}, patterns=False),
        Kind("cup", {"handle": None}, item=True),
        Kind("bottle", {"cap": "white"}, item=True),
        Kind("vase", {"rim": None}, item=True),
        Kind("wine glass", {"stem": "white"}, patterns=False, item=True),
        Kind("bowl", {"rim": None}, patterns=False),
        Kind("plate", {"rim": None}, patterns=False, support=True),
        Kind("apple", {"leaf": "green"}, item=True),
        Kind("orange", {"leaf": "green"}, item=True),
        Kind("banana", {"tip": "brown"}, patterns=False, item=True),
        Kind("carrot", {"leaves": "green"}, patterns=False),
        Kind("donut", {"icing": "pink"}, item=True),
        Kind("pizza", {"crust": "brown"}, patterns=False),
        Kind("cake", {"icing": "white", "cherry": "red"}, item=True),
        Kind("traffic light", {"pole": "black"}, patterns=False),
        Kind("fire hydrant", {"cap": None}),
        Kind("stop sign", {"pole": "black"}, patterns=False),
        Kind("traffic cone", {"band": "white", "base": None}, patterns=False),
        Kind("dog", {"ears": "brown", "collar": "red"}),
        Kind("cat", {"tail": None, "collar": "red"}),
        Kind("bird", {"beak": "orange", "wings": None}),
        Kind("sheep", {"head": "black", "legs": "black"}),
        Kind("elephant", {"ears": None}),
        Kind("giraffe", {"legs": None}),
        Kind("teddy bear", {"ears": None, "bow": "red"}, item=True),
        Kind("sports ball", {"band": "white"}, patterns=False, item=True),
        Kind("frisbee", {"rim": None}, patterns=False),
        Kind("snowman", {"hat": "black", "scarf": "red"}, patterns=False),
        Kind("clock", {"hands": "black"}, patterns=False),
        Kind("suitcase", {"handle": "black"}),
        Kind("umbrella", {"handle": "brown"}),
        Kind("potted plant", {"pot": "brown"}, patterns=False),
    )
}
PARTS = tuple(sorted({part for kind in KINDS.values() for part in kind.parts}))
PLURAL = frozenset({"wheels", "wings", "legs", "cushions", "leaves", "ears", "hands"})
MASS = frozenset({"icing"})
MEANT = {  # what others call things of this world
    "armchair": "chair", "automobile": "car", "computer": "laptop", "desk": "table", "jet": "airplane",
    "jug": "vase", "kitten": "cat", "lamb": "sheep", "lorry": "truck", "mug": "cup", "puppy": "dog",
    "ship": "boat", "sofa": "couch", "stool": "chair", "television": "tv", "van": "car", "yacht": "boat",
}  # fmt: skip
GLUE = ("a", "an", "with", "on", "view")


@dataclass(frozen=True)
class Thing:
    """One object of a scene: its noun and colour, an optional pattern and at most one recoloured part."""

    noun: str
    colour: str
    pattern: str | None = None
    part: str | None = None
    part_colour: str | None = None


@dataclass(frozen=True)
class Scene:
    """A thing, alone or on another."""

    thing: Thing
    support: Thing | None = None


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _say(thing: Thing) -> str:
    words = [w for w in (thing.pattern, thing.colour, thing.noun) if w]
    text = f"{_article(words[0])} {' '.join(words)}"
    if thing.part and thing.part_colour:
        bare = thing.part in PLURAL or thing.part in MASS
        article = "" if bare else f"{_article(thing.part_colour)} "
        text += f" with {article}{thing.part_colour} {thing.part}"
    return text


def caption(scene: Scene, view: str | None = None) -> str:
    """The scene's caption, with the view words of view-dependent prompting when a view is named."""
    text = _say(scene.thing) + (f" on {_say(scene.support)}" if scene.support else "")
    return f"{text}, {view} view" if view else text


def without_colours(scene: Scene) -> str:
    """What the shapes alone show: the nouns of the scene's caption, "an apple on a plate"."""
    nouns = [thing.noun for thing in (scene.thing, scene.support) if thing]
    return " on ".join(f"{_article(noun)} {noun}" for noun in nouns)


def exchanged(scene: Scene) -> Scene | None:
    """The scene with two colours exchanged: of the thing and its part, or of the thing and what it stands on;
    None where it has one colour."""
    thing = scene.thing
    if thing.part_colour:
        swapped = replace(thing, colour=thing.part_colour, part_colour=thing.colour)
        return replace(scene, thing=swapped)
    if scene.support and scene.support.colour != thing.colour:
        support = replace(scene.support, colour=thing.colour)
        return Scene(replace(thing, colour=scene.support.colour), support)
    return None


def words() -> list[str]:
    """Every word of the language, for tokenizers and suggestions."""
    nouns = {w for noun in KINDS for w in noun.split()}
    return sorted({*COLOURS, *PATTERNS, *PARTS, *nouns, *GLUE, *VIEWS})


def describe() -> str:
    """The language on a page: its grammar, colours and patterns, and every noun with its parts."""
    lines = [
        'object:   a|an [PATTERN] COLOUR NOUN ["with" [a|an] COLOUR PART]',
        'caption:  object ["on" object]',
        f"COLOUR:   {', '.join(COLOURS)}",
        f"PATTERN:  {', '.join(PATTERNS)}",
        f"carried:  {', '.join(k.noun for k in KINDS.values() if k.item)}",
        f"carrying: {', '.join(k.noun for k in KINDS.values() if k.support)}",
        "NOUN      its PARTs (* takes patterns)",
    ]
    for kind in sorted(KINDS.values(), key=lambda kind: kind.noun):
        star = "*" if kind.patterns else " "
        lines.append(f"  {kind.noun + star:<16}{', '.join(kind.parts)}")
    return "\n".join(lines)


def check(prompt: str) -> None:
    """UserError for a prompt that the toy prior was never taught, naming the nearest it was."""
    parse(prompt)


def parse(prompt: str) -> Scene:
    """The scene a caption describes; UserError where it is outside the language. View words are ignored."""
    text = normalised(prompt)
    for view in VIEWS:
        text = text.removesuffix(f", {view} view")
    known = words()
    unknown = list(dict.fromkeys(w for w in text.split() if w.strip(",") not in known))
    if unknown:
        hints = []
        for word in unknown:
            bare = word.strip(",")
            near = [MEANT[bare]] if bare in MEANT else difflib.get_close_matches(bare, known, 1)
            hints.append(f"{bare!r}" + (f" (nearest: {near[0]!r})" if near else ""))
        raise UserError(
            f"{prompt!r}: the toy prior does not know {', '.join(hints)}; "
            "`harness toyworld language` lists its words, `--preset paper` takes any prompt"
        )
    head, _, below = text.partition(" on ")
    try:
        thing = _parse_thing(head)
        support = _parse_thing(below) if below else None
        if support is not None:
            carriers = sorted(k.noun for k in KINDS.values() if k.support)
            items = sorted(k.noun for k in KINDS.values() if k.item)
            if not KINDS[support.noun].support:
                raise ValueError(f"nothing stands on a {support.noun}; try one of {', '.join(carriers)}")
            if not KINDS[thing.noun].item:
                raise ValueError(f"a {thing.noun} stands on nothing; try one of {', '.join(items)}")
    except ValueError as error:
        raise UserError(
            f"{prompt!r}: outside the toy world: {error}; `--preset paper` takes any prompt"
        ) from None
    return Scene(thing, support)


def _parse_thing(text: str) -> Thing:
    body, _, accent = text.partition(" with ")
    tokens = body.split()
    if tokens[:1] not in (["a"], ["an"]):
        raise ValueError(f"an object starts with 'a' or 'an', not {body!r}")
    tokens = tokens[1:]
    pattern = tokens.pop(0) if tokens and tokens[0] in PATTERNS else None
    colour = tokens.pop(0) if tokens and tokens[0] in COLOURS else ""
    noun = " ".join(tokens)
    if not colour:
        raise ValueError(f"{body!r} has no colour, try one of {', '.join(COLOURS)}")
    if noun not in KINDS:
        near = difflib.get_close_matches(noun, KINDS, 1, 0)
        raise ValueError(f"{noun!r} is no object; nearest: {near[0]!r}")
    kind = KINDS[noun]
    if pattern and not kind.patterns:
        raise ValueError(f"a {noun} has no pattern")
    if not accent:
        return Thing(noun, colour, pattern)
    tokens = [t for t in accent.split() if t not in ("a", "an")]
    if len(tokens) != 2 or tokens[0] not in COLOURS or tokens[1] not in kind.parts:
        raise ValueError(
            f"'with {accent}': a {noun} has {' or '.join(kind.parts)}, each with a colour before it"
        )
    return Thing(noun, colour, pattern, tokens[1], tokens[0])


def sample(rng: random.Random, nouns: tuple[str, ...] = tuple(KINDS)) -> Scene:
    """A random scene whose thing is one of `nouns`: plain, with a part, with a pattern, or on a support."""
    noun = rng.choice(nouns)
    kind = KINDS[noun]
    if kind.item and rng.random() < 0.4:
        support = rng.choice([k for k, v in KINDS.items() if v.support])
        colour, below = rng.sample(COLOURS, 2)
        return Scene(_dress(rng, noun, colour, 0.25, 0.15), Thing(support, below))
    return Scene(_dress(rng, noun, rng.choice(COLOURS), 0.55, 0.25))


def _dress(rng: random.Random, noun: str, colour: str, part_rate: float, pattern_rate: float) -> Thing:
    kind = KINDS[noun]
    pattern = rng.choice(PATTERNS) if kind.patterns and rng.random() < pattern_rate else None
    if rng.random() >= part_rate:
        return Thing(noun, colour, pattern)
    part = rng.choice(list(kind.parts))
    return Thing(noun, colour, pattern, part, rng.choice([c for c in COLOURS if c != colour]))
