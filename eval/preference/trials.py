"""What one rater is shown, in which order and on which sides, drawn from the rater's own seed."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence

from eval.preference.design import Design, Pair, check_size, check_unchanged
from eval.preference.store import OTHER, Name, Store, Trial

TOKEN_BYTES = 24  # 192 bits: no link can be guessed


def draw_trials(
    design: Design, seed: int, times_given: Mapping[str, int], per_rater: int | None = None
) -> list[Trial]:
    """Real pairs (all, or the `per_rater` that the fewest raters were given), hidden ties and repeats.

    Of every two methods each stands left as often as right, or once more. A repeat comes with its sides
    swapped, after more than a third of all else. `design` allows that: see design.check_size.
    """
    chance = random.Random(seed)
    real = list(design.real)
    chance.shuffle(real)
    real.sort(key=lambda pair: times_given.get(pair.pair, 0))  # stable: chance decides among equals
    real = real[:per_rater]
    shown = [*_sided(real, chance), *((pair.pair, chance.choice(("a", "b"))) for pair in design.hidden)]
    chance.shuffle(shown)
    order = [(name, False, left) for name, left in shown]
    gap = len(order) // 3
    names = {pair.pair for pair in real}
    early = [entry for entry in order[: len(order) - gap] if entry[0] in names]
    for first in chance.sample(early, design.repeats):
        place = chance.randint(order.index(first) + gap + 1, len(order))
        order.insert(place, (first[0], True, OTHER[first[2]]))
    return [Trial(position, name, repeat, left) for position, (name, repeat, left) in enumerate(order)]


def _sided(pairs: Sequence[Pair], chance: random.Random) -> list[tuple[str, Name]]:
    """Pairs with who stands left, in turn within every two methods."""
    following: dict[tuple[str, str], Name] = {}
    sided = []
    for pair in pairs:
        left = following.setdefault(pair.methods, chance.choice(("a", "b")))
        sided.append((pair.pair, left))
        following[pair.methods] = OTHER[left]
    return sided


def add_raters(design: Design, store: Store, count: int, per_rater: int | None = None) -> list[str]:
    """`count` new raters with all their trials; the tokens of their links, which are kept nowhere.

    The first of them fix the design. Raises UserError for a design that has changed since, and for a
    `per_rater` that is too small for the study's hidden ties and repeats.
    """
    if per_rater is not None:
        check_size(min(per_rater, len(design.real)), design.repeats, design.ties)
    check_unchanged(design, store.fix_design(design.digest).result(), store.path.parent)
    tokens = []
    for _ in range(count):
        token, seed = secrets.token_urlsafe(TOKEN_BYTES), secrets.randbits(62)
        trials = draw_trials(design, seed, store.times_given(), per_rater)
        store.add_rater(f"r{secrets.token_hex(6)}", seed, trials, token=token).result()
        tokens.append(token)
    return tokens
