"""The bound on the validation text while a model is trained, over all processes of the run."""

from __future__ import annotations

from typing import Any

from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.strategies.rates import ExponentMasking
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.progress import OnProgress
from mdlm_atat.scoring.cost import Cost, TextCounts
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import draw_nll
from mdlm_atat.scoring.schedule_bound import draw_schedule_nll
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.metrics import (
    EVAL_CAUSAL_ERROR,
    EVAL_CAUSAL_NATS,
    EVAL_ERROR,
    EVAL_NATS,
    EVAL_OWN_ERROR,
    EVAL_OWN_NATS,
)


def score_validation(
    config: RunConfig,
    engine: Engine,
    model: Any,
    data: TokenDataset,
    schedule: ExponentMasking | None,
    stage: Stage | None,
    on_progress: OnProgress,
) -> dict[str, float]:
    """The validation bounds under the names they are logged by, over all processes: under the uniform schedule, under
    the method's own where it has one, and the exact value left to right of a network that is trained in two ways."""
    draws = DrawSettings(
        num_draws=config.eval.num_draws,
        batch_size=config.eval.batch_size,
        device=engine.device,
        rank=engine.rank,
        num_ranks=engine.num_ranks,
        gather=engine.gather,
        on_progress=on_progress,
    )
    counts, mask_id = TextCounts.of(data), data.tokenizer.mask_id
    # the raw model: the wrapped one would wait for processes that have nothing left to score
    with engine.autocast():
        if "masked" not in model.modes:
            found = exact_nll(model, data, draws=draws)
        else:
            found = draw_nll(model, data, mask_id=mask_id, draws=draws).likelihood()
        cost = Cost(nats_per_token=found.nats_per_token, counts=counts)
        values = {
            EVAL_NATS: found.nats_per_token,
            EVAL_ERROR: found.standard_error,
            "eval/perplexity": cost.perplexity_per_token,
            # a name of its own where the tokenizer loses text: such numbers cannot be compared
            f"eval/bits_per_character{'_lossy' * cost.is_lossy}": cost.bits_per_character,
        }
        if "masked" in model.modes and config.objective.causal_share > 0:
            exact = exact_nll(model, data, draws=draws)
            values |= {EVAL_CAUSAL_NATS: exact.nats_per_token, EVAL_CAUSAL_ERROR: exact.standard_error}
        if schedule is not None:
            own = draw_schedule_nll(model, data, masking=schedule, stage=stage, mask_id=mask_id, draws=draws)
            bound, error = own.nelbo()
            values |= {
                EVAL_OWN_NATS: bound,
                EVAL_OWN_ERROR: error,
                "eval/schedule_perplexity": Cost(nats_per_token=bound).perplexity_per_token,
                "eval/schedule_rate_nats": own.rate_nats()[0],
            }
    return values
