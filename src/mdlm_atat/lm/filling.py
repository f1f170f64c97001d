"""Texts on their way: a batch of them, step by step, each of which can be looked at and left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mdlm_atat.lm.given import Row
from mdlm_atat.lm.how import How
from mdlm_atat.lm.results import Frame, Generated
from mdlm_atat.samplers.loop import Reverse, reverse, trait

if TYPE_CHECKING:
    from mdlm_atat.lm.sampling import Sampling


class Filling:
    """A batch of rows that is being filled. Iterating takes the steps, and yields the number of each, from 1.

        filling = lm.filling(rows, how, seeds)
        for step in filling:
            print(filling.frame(0))
        text = filling.text(0)

    Every text is the one that its row and its seed give alone, up to the rounding of the network's arithmetic.
    """

    def __init__(self, lm: Sampling, rows: Sequence[Row], how: How, seeds: Sequence[int]) -> None:
        """See `Sampling.filling`, which makes these."""
        canvas = lm._canvas(rows)
        rule = lm.rule(how, canvas)
        self._lm, self.rule, self.rows, self.seeds = lm, rule, list(rows), list(seeds)
        self._state = Reverse(
            lm.predictor(rule, given_ahead=lm._given_ahead(canvas)),
            canvas.to(lm.canvas_device),
            lm.tokenizer.mask_id,
            seeds,
            guidance=lm._guidance(how.guide, rule),
        )
        self.step = 0
        """The last step that was taken."""

    def __iter__(self) -> Iterator[int]:
        for step in reverse(self._state, self.rule):
            self.step = step
            yield step

    def max_steps(self, number: int) -> int:
        """The most steps in which something is revealed in a row."""
        return self.rule.max_nfe(self._state.num_to_fill[number])

    def frame(self, number: int, *, importance: bool = False) -> Frame:
        """What a row is after the last step. `importance`: ask the model for that of every token too, which is one more
        network evaluation, where it knows it."""
        state, length = self._state, len(self.rows[number].tokens)
        tokens = self._tokens(number)
        found = self._lm.importance(state.z_t[number : number + 1, :length]) if importance else None
        return Frame(
            self.step,
            tokens,
            self.rows[number].text(self._lm.tokenizer, tokens)[0],
            revealed_at_step=state.revealed_at_step[number, : len(tokens)].tolist(),
            confidence=state.confidence[number, : len(tokens)].tolist(),
            importance=None if found is None else found[0, : len(tokens)].tolist(),
            row=self.rows[number],
        )

    @property
    def is_settled_on_the_way(self) -> bool:
        """Whether what is revealed stays as it is. Known of rules whose order is deterministic; others may take tokens
        back."""
        return trait(self.rule, "order_is_deterministic")

    def is_whole(self, number: int) -> bool:
        """Whether nothing will change in a row any more; where that is not known, False before the last step."""
        return self.is_settled_on_the_way and not bool(self._state.masked[number].any())

    def leave(self, number: int) -> None:
        """Let a row be as it is: nobody waits for the rest of it."""
        self._state.ended[number] = True

    def text(self, number: int) -> Generated:
        """The text that a row holds now."""
        tokens, row = self._tokens(number), self.rows[number]
        text, spans = row.text(self._lm.tokenizer, tokens)
        return Generated(
            text,
            tokens,
            self.seeds[number],
            int(self._state.nfe[number]),
            spans=spans,
            row=row,
            nats_drawn=float(self._state.nll[number]),
        )

    def _tokens(self, number: int) -> list[int]:
        tokens = self._state.z_t[number, : len(self.rows[number].tokens)].tolist()
        return self._lm._until_its_end(tokens) if self._state.ended[number] else tokens
