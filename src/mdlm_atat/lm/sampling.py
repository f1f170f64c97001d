"""Generating and infilling with a trained model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Unpack, get_args, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.checks import one_of, whole
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.errors import UserError
from mdlm_atat.lm.asking import Asking
from mdlm_atat.lm.canvases import Canvases
from mdlm_atat.lm.filling import Filling
from mdlm_atat.lm.given import Row
from mdlm_atat.lm.how import Guide, How, HowOptions, InfillOptions, TextOptions, one_or_many
from mdlm_atat.lm.results import Frame, Generated, Infilled, Layout, Layouts, LengthPrior, Pick, TextTrace, in_order
from mdlm_atat.progress import OnProgress
from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.guidance import Guidance
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import OnFilled, OnStep, Sample, StepRule, sample, trait
from mdlm_atat.samplers.named import make_sampler
from mdlm_atat.samplers.seeds import SeedRule, text_seeds
from mdlm_atat.samplers.sizes import Profile
from mdlm_atat.samplers.template import MAX_DRAWS, has_gap, parse_template, unescaped

BLOCKS_PER_WINDOW = 4  # where a text is longer than the model and no block size is given


class Sampling(Canvases, Asking):
    """The part of a language model that makes text. Every text has a seed and random numbers of its own, so it is the
    same in any batch (up to the rounding of the network's arithmetic)."""

    @overload
    def generate(
        self,
        prompts: str = "",
        *,
        length: int | None = None,
        max_new_tokens: int | None = None,
        **options: Unpack[TextOptions],
    ) -> Generated: ...

    @overload
    def generate(
        self,
        prompts: Iterable[str],
        *,
        length: int | None = None,
        max_new_tokens: int | None = None,
        **options: Unpack[TextOptions],
    ) -> list[Generated]: ...

    def generate(
        self,
        prompts: object = "",
        *,
        length: int | None = None,
        max_new_tokens: int | None = None,
        seed: int | Sequence[int] = 0,
        seed_rule: SeedRule = "hash",
        return_trace: bool = False,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
        **how: Unpack[HowOptions],
    ) -> Generated | list[Generated]:
        """One text that begins with a prompt, or for a sequence of prompts a list of texts, one for each.

        `length`: tokens in all, the prompt included (default: the model's; longer texts are made in blocks).
        `max_new_tokens`: tokens after the prompt, instead. `seed`: text i is drawn from a hash of seed and i, or with
        `seed_rule="add"` from seed + i; a sequence gives the very seed of each text, as Generated.seed records it.
        `return_trace`: keep how each text came about. `on_step(step, z_t)` is called with every canvas, and now and
        then `on_progress(done, total)`, with how many of all tokens to be written are. The other keywords are the
        fields of How: sampler, steps, temperature, top_k, top_p, block_size, guide.

        Raises UserError for a prompt longer than `length` and settings out of range; TypeError for prompts that are
        not str, and for unknown keywords.
        """
        texts, is_one = one_or_many(prompts, "prompts")
        settings = How.of(how, self.generate)
        rows = self.prompt_rows(texts, length, max_new_tokens)
        seeds = text_seeds(seed, range(len(rows)), seed_rule)
        made = self._fill_rows(rows, settings, seeds, return_trace, on_step, on_progress)
        return made[0] if is_one else made

    @overload
    def infill(  # pyright: ignore[reportOverlappingOverload]
        self, templates: str, *, alternatives: None = None, **options: Unpack[InfillOptions]
    ) -> Infilled: ...

    @overload
    def infill(  # pyright: ignore[reportOverlappingOverload]
        self, templates: str, *, alternatives: int, **options: Unpack[InfillOptions]
    ) -> list[Infilled]: ...

    @overload
    def infill(
        self, templates: Iterable[str], *, alternatives: None = None, **options: Unpack[InfillOptions]
    ) -> list[Infilled]: ...

    @overload
    def infill(
        self, templates: Iterable[str], *, alternatives: int, **options: Unpack[InfillOptions]
    ) -> list[list[Infilled]]: ...

    def infill(
        self,
        templates: object,
        *,
        alternatives: int | None = None,
        candidates: int | None = None,
        pick: Pick = "likeliest",
        length_draws: int = MAX_DRAWS,
        length_seed: int = 0,
        length_prior: LengthPrior | None = None,
        layouts: Layouts | None = None,
        escape: bool = False,
        seed: int | Sequence[int] = 0,
        seed_rule: SeedRule = "hash",
        return_trace: bool = False,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
        **how: Unpack[HowOptions],
    ) -> Infilled | list[Infilled] | list[list[Infilled]]:
        r"""Fill the gaps of a template: "The [MASK:5] sat on the [MASK:2].", with [MASK] for one token.

        One template gives one text, a sequence of templates a list. With `alternatives`, a number, each template gives
        a list of so many ways to fill it. The other keywords are those of `generate`.

        A gap of [MASK:3-8] gets the length at which the model finds the given text likeliest, whatever the gap may
        hold. With `length_prior` "text" a gap is one unit beforehand, within a sentence, a phrase or a word as its ends
        are, by how long those of the training text are; with "uniform" all lengths are as likely. None: "text" where
        the model's folder has these counts. `length_costs` of the result has the nats of each with their errors, and
        says whether the choice is settled, so that draws from another `length_seed` would choose the same. At most
        `length_draws` are drawn for each choice of lengths (of an odd number below 64, one more); fewer than 64 make a
        quick, rough choice, in a network that has both modes by fillings that are drawn several tokens at a time: that
        one is never called settled. `layouts` keeps what is chosen: calls that share the dictionary choose the lengths
        of a template once.

        All else in a template is text as it stands, and comes out so. With `escape` a backslash is an escape: \[MASK]
        is text, \n a line end, \\ a backslash.

        A network that has both modes ranks the alternatives by their exact probability left to right,
        `nats_left_to_right`, best first. With `candidates` so many are drawn of each template and the best of them
        returned, as many as `alternatives` (default: the best one); those that occur twice come after the others, and
        so do those that end before text that is given (of a sampler with `stop_at_eos`). The likeliest are duller than
        what the model would write. With `pick` "fair" they are instead drawn among the candidates, each by its
        probability left to right over that with which the sampler made it (see `lm.results.in_order`): the more
        candidates, the nearer to texts of the causal mode that know what is behind the gap. What temperature, top_k and
        top_p change, the weights change back, but for tokens that cannot be drawn.

        Candidate j of template i is drawn as text number i * candidates + j of the seed; where no `candidates` are
        asked for, there are as many as `alternatives`.

        Raises UserError for a template without gaps, malformed ones, a gap longer than the model, for `candidates` of a
        model that only fills masks, or of a text longer than the model, and for `pick` "fair" without them, with
        `guide`, with `stop_at_eos`, and of a sampler whose order is random or that takes tokens back: its texts have no
        such probability.
        """
        given, is_one = one_or_many(templates, "templates")
        settings = How.of(how, self.infill).with_default(self.gap_sampler)
        whole("alternatives", alternatives, 1)
        num_drawn = self.num_candidates(candidates, alternatives or 1)
        self.check_pick(pick, candidates, settings)
        whole("length_draws", length_draws, 1)
        whole("length_seed", length_seed, 0)
        layouts = {} if layouts is None else layouts
        parsed = [tuple(parse_template(text, escape=escape)) for text in given]
        for text, template in zip(given, parsed, strict=True):
            if template not in layouts:
                if candidates is not None:  # else all that is wrong shows as it is laid out
                    self.check_template(text, candidates, escape=escape)
                layouts[template] = self.lay_out(template, length_draws, length_seed, length_prior=length_prior)
        all_layouts = [layouts[template] for template in parsed for _ in range(num_drawn)]
        made = self._fill_rows(
            [layout.row for layout in all_layouts],
            settings,
            text_seeds(seed, range(len(all_layouts)), seed_rule),
            return_trace,
            on_step,
            on_progress,
        )
        ways = self.as_infilled(made, all_layouts)
        groups = [in_order(ways[start : start + num_drawn], pick) for start in range(0, len(ways), num_drawn)]
        if alternatives is None:
            best = [group[0] for group in groups]
            return best[0] if is_one else best
        groups = [group[:alternatives] for group in groups]
        return groups[0] if is_one else groups

    def num_candidates(self, candidates: int | None, alternatives: int) -> int:
        """How many ways to fill a template are drawn where so many `alternatives` are to be returned. Raises UserError
        for fewer `candidates` than that, and where the network cannot rank them."""
        whole("candidates", candidates, 1)
        if candidates is None:
            return alternatives
        if "causal" not in self.modes:
            raise UserError(
                f"`candidates={candidates}`: candidates are ranked by their probability left to right, and this model "
                "was trained to fill masks only; train one with `objective.causal_share=0.5`, or leave out "
                "`candidates=`"
            )
        if candidates < alternatives:
            raise UserError(
                f"`candidates={candidates}`: the best {alternatives} cannot be taken of fewer; draw at least "
                f"`candidates={alternatives}`"
            )
        return candidates

    def check_pick(self, pick: Pick, candidates: int | None, how: How) -> None:
        """Raise UserError where candidates cannot be picked so."""
        one_of("pick", pick, get_args(Pick))
        if pick == "likeliest":
            return
        if candidates is None:
            raise UserError("`pick='fair'` draws among `candidates=`: say how many there are to be, such as 16")
        if how.guide is not None:
            raise UserError(
                "`pick='fair'` weighs candidates by the model's own probability, which takes back what `guide=` does; "
                "leave out one of them"
            )
        rule = self.rule(how, Canvas.blank(1, 1, self.tokenizer.mask_id))
        if not trait(rule, "order_is_deterministic"):
            raise UserError(
                f"`pick='fair'` needs the probability with which a text is made, which {type(rule).__name__} does not "
                f"tell: its order is random, or tokens are taken back; leave out `sampler=`, which is "
                f"{self.gap_sampler} then"
            )
        inner = getattr(rule, "inner", rule)
        if isinstance(inner, LeftToRight) and inner.stop_at_eos:
            raise UserError(
                "`pick='fair'` compares the probabilities of whole texts; leave out `stop_at_eos`: a text that ends "
                "there lacks what is given behind its gap"
            )

    def fill(
        self,
        canvas: Canvas,
        *,
        seed: int | Sequence[int] = 0,
        seed_rule: SeedRule = "hash",
        return_trace: bool = False,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
        **how: Unpack[HowOptions],
    ) -> list[Generated]:
        """Fill a canvas of any fixed tokens: Canvas(tokens, fixed), one text a row.

        In blocks, all rows look ahead where one has given text after a gap. The other keywords are those of `generate`.
        Raises UserError for a fixed token that is none of the vocabulary.
        """
        settings = How.of(how, self.fill)
        given = canvas.tokens[canvas.fixed]
        if ((given < 0) | (given >= self.tokenizer.vocab_size)).any():
            raise UserError(f"fixed tokens must be from 0 to {self.tokenizer.vocab_size - 1}; [MASK] cannot be fixed")
        seeds = text_seeds(seed, range(len(canvas.tokens)), seed_rule)
        on_filled = None if on_progress is None else partial(_report, on_progress, 0, int((~canvas.fixed).sum()))
        return self._fill(canvas, settings, seeds, return_trace, on_step, on_filled)

    def _fill_rows(
        self,
        rows: Sequence[Row],
        how: How,
        seeds: Sequence[int],
        return_trace: bool,
        on_step: OnStep | None,
        on_progress: OnProgress | None,
    ) -> list[Generated]:
        """Fill rows that need not be of one length."""
        alike: dict[tuple[int, bool], list[int]] = {}
        for number, batch in enumerate(self.batches_of(rows, how, pad=on_step is None)):
            alike.setdefault(batch, []).append(number)
        made: dict[int, Generated] = {}
        num_to_fill = [sum(gap.stop - gap.start for gap in row.gaps) for row in rows]
        done = 0
        if on_progress is not None:
            on_progress(0, sum(num_to_fill))
        for numbers in alike.values():
            filled = self._fill(
                self._canvas([rows[number] for number in numbers]),
                how,
                [seeds[number] for number in numbers],
                return_trace,
                on_step if 0 in numbers else None,  # the first text is the one to watch
                None if on_progress is None else partial(_report, on_progress, done, sum(num_to_fill)),
                [rows[number] for number in numbers],
            )
            done += sum(num_to_fill[number] for number in numbers)
            made |= zip(numbers, filled, strict=True)
        return [made[number] for number in range(len(rows))]

    def batches_of(self, rows: Sequence[Row], how: How, *, pad: bool = True) -> list[tuple[int, bool]]:
        """Of each row, what it must have in common with others to be filled in one batch with them.

        They have one length, and one kind of window where they go in blocks. But from left to right nothing sees what
        is behind it, so that padding does no harm (`pad`); then the length is 0.
        """
        from_the_left: dict[bool, bool] = {}  # of rows that fit, by whether there is given text after a gap
        batches = []
        for row in rows:
            canvas = self._canvas([row])
            ahead = self._given_ahead(canvas)
            may_be_padded = pad and how.block_size is None and len(row.tokens) <= self.max_length
            if may_be_padded and ahead not in from_the_left:
                from_the_left[ahead] = self.reads_left_to_right(self.rule(how, canvas), given_ahead=ahead)
            batches.append((0 if may_be_padded and from_the_left[ahead] else len(row.tokens), ahead))
        return batches

    def filling(self, rows: Sequence[Row], how: How, seeds: Sequence[int]) -> Filling:
        """Rows of one batch (see `batches_of`) to be filled step by step, one seed each, as Generated.seed records it.
        `prompt_rows` and `lay_out` make rows. Raises UserError for a sampler that this model cannot use."""
        return Filling(self, rows, how, seeds)

    def _fill(
        self,
        canvas: Canvas,
        how: How,
        seeds: Sequence[int],
        return_trace: bool,
        on_step: OnStep | None,
        on_filled: OnFilled | None,
        rows: Sequence[Row] | None = None,
    ) -> list[Generated]:
        """Fill a canvas. `rows`: the texts that were given in it; None: nobody knows more than their tokens."""
        if len(canvas.tokens) == 0:
            return []
        rule = self.rule(how, canvas)
        with self.inference():
            result = sample(
                self.predictor(rule, given_ahead=self._given_ahead(canvas)),
                canvas.to(self.canvas_device),
                rule,
                mask_id=self.tokenizer.mask_id,
                seeds=seeds,
                guidance=self._guidance(how.guide, rule),
                on_step=on_step,
                on_filled=on_filled,
                keep_frames=return_trace,
            )
            traces = self._traces(result, canvas) if return_trace else [None] * len(seeds)
        made = []
        all_nfe, nats = result.trace.nfe.tolist(), result.trace.nll.tolist()
        for number, row in enumerate(result.tokens.tolist()):
            tokens = self._until_its_end(row)
            given = None if rows is None else rows[number]
            text, spans = (self.tokenizer.decode(tokens), ()) if given is None else given.text(self.tokenizer, tokens)
            made.append(
                Generated(text, tokens, seeds[number], all_nfe[number], traces[number], spans, given, nats[number])
            )
        return made

    def as_infilled(self, texts: Sequence[Generated], layouts: Sequence[Layout]) -> list[Infilled]:
        """Filled rows of layouts with what `infill` says of them."""
        nats = self._nats_left_to_right(texts, layouts)
        return [
            Infilled(
                **vars(text),
                lengths=layout.lengths,
                length_costs=layout.costs,
                nats_left_to_right=each,
            )
            for text, layout, each in zip(texts, layouts, nats, strict=True)
        ]

    def _nats_left_to_right(self, texts: Sequence[Generated], layouts: Sequence[Layout]) -> list[float | None]:
        """Of each text, -log p of all from its first gap on, given what is before. None where the network has no causal
        mode, and for a text longer than the model."""
        nats: list[float | None] = [None] * len(texts)
        if "causal" not in self.modes:
            return nats
        alike: dict[tuple[int, int], list[int]] = {}
        for number, (text, layout) in enumerate(zip(texts, layouts, strict=True)):
            if len(text.tokens) <= self.max_length:
                alike.setdefault((len(text.tokens), layout.row.gaps[0].start), []).append(number)
        for (_, start), numbers in alike.items():
            found = self.nll_from(torch.tensor([texts[number].tokens for number in numbers]), start).sum(1)
            for number, each in zip(numbers, found.tolist(), strict=True):
                nats[number] = each
        return nats

    def stream(
        self,
        prompt: str = "",
        *,
        length: int | None = None,
        max_new_tokens: int | None = None,
        seed: int | Sequence[int] = 0,
        seed_rule: SeedRule = "hash",
        escape: bool = False,
        importance: bool = False,
        **how: Unpack[HowOptions],
    ) -> Iterator[Frame]:
        """One text on its way: the canvas as given, then after every step.

        `prompt` is what the text begins with, or a template with gaps, whose length is its own; `escape` as in
        `infill`. `importance`: frames have that of every token, for one more network evaluation each, where the model
        knows it. `seed` and the other keywords are those of `generate`, and so is the text that it ends in.
        """
        settings = How.of(how, self.stream)
        if has_gap(prompt, escape=escape):
            if length is not None or max_new_tokens is not None:
                raise UserError("a template has its own length: leave out `length=` and `max_new_tokens=`")
            settings = settings.with_default(self.gap_sampler)
            row = self.lay_out(parse_template(prompt, escape=escape)).row
        else:
            (row,) = self.prompt_rows([unescaped(prompt) if escape else prompt], length, max_new_tokens)
        filling = self.filling([row], settings, text_seeds(seed, [0], seed_rule))

        def frames() -> Iterator[Frame]:
            yield filling.frame(0, importance=importance)
            for _ in filling:
                yield filling.frame(0, importance=importance)

        return frames()

    def rule(self, how: How, canvas: Canvas) -> StepRule:
        """The step rule that `how` asks for on this canvas: the sampler with its options, applied block after block if
        a block size is given or the canvas is longer than the model. Raises UserError for an unknown sampler or option,
        and a block size beyond the model's length."""
        length, width = canvas.tokens.shape[1], self.max_length
        size = how.block_size
        if size is None and length > width:
            size = max(1, width // BLOCKS_PER_WINDOW)
        if size is not None and size > width:
            raise UserError(f"block_size is {size}, expected from 1 to {width}, the model's length")
        rule = how.sampler
        draw = how.draw
        ahead = self._given_ahead(canvas)
        if rule is None:
            rule = self.default_sampler if how.steps is None and not ahead else self.gap_sampler
        if isinstance(rule, str | type):
            rule = make_sampler(
                rule,
                num_steps=how.steps,
                draw=draw,
                profile=self.profile,
                schedule=self.noise_schedule,
                eos_id=self.tokenizer.eos_id,
            )
        elif how.steps is not None or draw != TokenDraw():
            raise UserError("a rule of your own has its steps and its draw: leave out steps, temperature, top_k, top_p")
        if size is None:
            return rule
        look_ahead = (width - size) // 2 if ahead else 0
        return Blocks(inner=rule, size=size, window=width, look_ahead=look_ahead)

    @property
    @abstractmethod
    def noise_schedule(self) -> Schedule:
        """The noise schedule that it was trained under."""

    @property
    @abstractmethod
    def default_sampler(self) -> str:
        """The name of the sampler that is used if none is named: for writing."""

    @property
    def gap_sampler(self) -> str:
        """The same where text is given after what is to be filled in, or a number of `steps` is."""
        return self.default_sampler

    @abstractmethod
    def profile(self) -> Profile | None:
        """The model's validation profile: cost of a masked token by mask rate. None where it was not measured."""

    def _guidance(self, guide: Guide | None, rule: StepRule) -> Guidance | None:
        if guide is None:
            return None
        if guide.order != 0 and not trait(rule, "looks_first"):
            raise UserError(
                f"{type(rule).__name__} decides what to reveal before it asks the network, so guidance cannot change "
                "the order; use sampler=uncertainty, or order=0"
            )
        weights = torch.zeros(self.tokenizer.vocab_size, dtype=torch.float32, device=self.canvas_device)
        prefixes = ["", " "] if self._joins else [""]
        for word, weight in guide.words.items():
            forms = [self.tokenizer.encode(prefix + word) for prefix in prefixes]
            single = {form[0] for form in forms if len(form) == 1}
            if not single:
                raise UserError(
                    f"{word!r} is {len(forms[0])} tokens of this model's tokenizer; guidance takes words of one token"
                )
            weights[list(single)] = weight
        return Guidance(weights, guide.logits, guide.order)

    def _traces(self, result: Sample, canvas: Canvas) -> list[TextTrace | None]:
        trace = result.trace
        assert trace.frames is not None
        importance = self._importance(result.tokens)
        on_cpu = {
            name: getattr(trace, name).cpu().numpy()
            for name in ("revealed_at_step", "confidence", "entropy", "num_remasked", "nll")
        }
        frames, fixed = trace.frames.cpu().numpy(), canvas.fixed.cpu().numpy()
        traces: list[TextTrace | None] = []
        for row, length in enumerate((result.tokens != self.tokenizer.mask_id).sum(1).tolist()):
            # a row may be done before others of its batch
            last = max(1, int(on_cpu["revealed_at_step"][row].max(initial=0)))
            taken = np.isfinite(on_cpu["entropy"][row])
            last = int(np.flatnonzero(taken).max(initial=last - 1)) + 1
            traces.append(
                TextTrace(
                    frames=frames[: last + 1, row, :length],
                    fixed=fixed[row, :length],
                    revealed_at_step=on_cpu["revealed_at_step"][row, :length],
                    confidence=on_cpu["confidence"][row, :length],
                    entropy=on_cpu["entropy"][row][:last],
                    num_remasked=on_cpu["num_remasked"][row, :length],
                    importance=None if importance is None else importance[row, :length],
                    nats=float(on_cpu["nll"][row]),
                    elapsed_s=trace.elapsed_s,
                )
            )
        return traces

    def _importance(self, tokens: Int[Tensor, "batch length"]) -> np.ndarray | None:
        """Of finished texts; None where the model knows none."""
        del tokens
        return None

    def importance(self, z_t: Int[Tensor, "batch length"]) -> Float[np.ndarray, "batch length"] | None:
        """Importance in [0, 1] of every token of partly masked rows; None where the model knows none."""
        del z_t
        return None


def _report(on_progress: OnProgress, before: int, total: int, num_filled: int) -> None:
    """Tell `on_progress` of a batch, when so many tokens were written `before` it."""
    on_progress(before + num_filled, total)
