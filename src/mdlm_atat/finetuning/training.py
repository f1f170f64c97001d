"""One seed of fine-tuning: from a trained network and a task's examples to the metrics of each epoch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.device import Precision, choose_precision, float64_device
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.encode import EncodedTexts
from mdlm_atat.finetuning.head import Classifier, Head, output_width, pooled
from mdlm_atat.finetuning.metrics import measure
from mdlm_atat.finetuning.settings import FinetuneSettings
from mdlm_atat.finetuning.tasks import Task
from mdlm_atat.progress import OnProgress
from mdlm_atat.training.optim import make_optimizer, set_learning_rate

SCORING_BATCH = 64
OnStep = Callable[[int, Mapping[str, float]], object]
"""Called with (step, values): after each optimizer step, counted from 1 in every seed, with `seed`, `epoch`,
`train/loss` and `train/lr`; and again after each epoch with `seed`, `epoch` and `eval/NAME` of each metric."""
BatchAt = Callable[[Sequence[int]], tuple[Tensor, ...]]
"""Returns the model's inputs for the examples with these indices."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples, and how the model scored after it."""

    number: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's steps: cross-entropy in nats, or squared error in variances of the scores."""
    metrics: dict[str, float]
    """On the examples to score on."""
    elapsed_s: float

    @property
    def score(self) -> float:
        """Mean of the metrics, by which the best epoch is chosen."""
        return sum(self.metrics.values()) / len(self.metrics)


@dataclass(frozen=True)
class Trained:
    """A network and a head that reads its pooled states, as a seed has trained them."""

    backbone: Any
    head: Head
    mean: float = 0.0
    spread: float = 1.0
    """A regression's score is mean + spread * the head's output."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one seed."""

    epochs: list[Epoch]
    predictions: NDArray[np.int64] | NDArray[np.float64]
    """(n,): class or score that the last epoch's model predicts for each example to score on."""
    num_trained: int
    """Parameters that were trained."""
    logits: Float[np.ndarray, "n classes"] | None = None
    """Of the last epoch, for each example to score on; None: a regression, or a stored result."""
    of_epochs: tuple[NDArray[Any], ...] = ()
    """What was predicted after each epoch, `predictions` last. Empty: a stored result."""
    trained: Trained | None = None
    """None: a stored result, or one of cross-validation."""

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest score. It is chosen on the examples it is scored on, so it is too high."""
        return max(self.epochs, key=lambda epoch: epoch.score)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Whom to tell while it runs."""

    on_seed: Callable[[int, Outcome | None, bool], None] = lambda *_: None
    """Called with (seed, its stored result or None, whether it runs again to be kept as a classifier) before a seed
    starts."""
    on_epoch: Callable[[int, Epoch], None] = lambda *_: None
    """Called with (seed, epoch) after each epoch."""
    on_step: OnStep | None = None
    on_progress: OnProgress = lambda *_: None
    """Called with (steps done, steps in all) of a seed, or texts while a probe's features are computed."""


NOBODY = Hooks()


@dataclass(frozen=True)
class Examples:
    """The model's inputs for the examples of both splits."""

    train: BatchAt
    dev: BatchAt


class Finetuning:
    """Trains on a task from the same pretrained weights for every seed. The given backbone stays as it is."""

    def __init__(
        self,
        backbone: Any,
        task: Task,
        train: EncodedTexts,
        dev: EncodedTexts,
        settings: FinetuneSettings,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.backbone, self.task, self.settings = backbone.to(device).eval(), task, settings
        self.texts = {"train": train, "dev": dev}
        self.device, self.precision = device, choose_precision(precision, device)
        self._features: Examples | None = None
        self._feature_mean = self._feature_spread = torch.empty(0)  # of a probe, once its features are computed

    def run(self, seed: int, hooks: Hooks = NOBODY) -> Outcome:
        """Train and score. The seed decides the head's first weights, the order of the examples and the dropout."""
        settings, task = self.settings, self.task
        torch.manual_seed(seed)
        head = Head(output_width(self.backbone), max(1, len(task.labels)), settings.dropout).to(self.device)
        if settings.probe:
            if self._features is None:  # the same for every seed
                self._features = self._frozen_features(hooks.on_progress)
            model, backbone, examples = head, self.backbone, self._features
        else:
            # parameters alone are shared by nothing else: every seed starts from the weights as they were trained
            backbone = copy.deepcopy(self.backbone)
            model = Classifier(backbone, head, settings.pooling)
            set_dropout(backbone, settings.backbone_dropout)
            examples = Examples(*(self._token_batches(split) for split in ("train", "dev")))
        outcome = self._train(model, examples, seed, hooks)
        return replace(outcome, trained=self._trained(backbone, head))

    def classifier(self, outcome: Outcome, seed: int, hooks: Hooks = NOBODY) -> Trained:
        """What a seed has trained, to be used."""
        del seed, hooks
        assert outcome.trained is not None
        return outcome.trained

    def _trained(self, backbone: Any, head: Head) -> Trained:
        """What was trained, as it reads texts. The scaling of a probe's features goes into its head."""
        if self.settings.probe:
            head = copy.deepcopy(head)
            with torch.no_grad():
                head.output.weight.div_(self._feature_spread)
                head.output.bias.sub_(head.output.weight @ self._feature_mean)
        if not self.task.is_regression:
            return Trained(backbone, head)
        truth = self.task.train.targets
        return Trained(backbone, head, float(truth.mean()), float(truth.std()))

    def _train(self, model: nn.Module, examples: Examples, seed: int, hooks: Hooks) -> Outcome:
        settings, targets = self.settings, self._targets()
        optimizer = make_optimizer(
            model, OptimConfig(lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay)
        )
        start_s = time.perf_counter()
        epochs: list[Epoch] = []
        of_epochs: list[NDArray[Any]] = []
        while True:
            number = len(epochs) + 1
            loss = self._epoch(model, optimizer, examples.train, targets, seed, number, hooks)
            outputs = self._outputs(model, examples.dev)
            predicted = self._as_predicted(outputs)
            of_epochs.append(predicted)
            if not (math.isfinite(loss) and np.isfinite(predicted).all()):
                raise UserError(
                    f"seed {seed}: the loss or a prediction is not a finite number in epoch {number}; use a lower `lr=`"
                )
            metrics = measure(self.task.metrics, predicted, self.task.dev.targets)
            epochs.append(Epoch(number, loss, metrics, time.perf_counter() - start_s))
            hooks.on_epoch(seed, epochs[-1])
            if hooks.on_step is not None:
                scores = {f"eval/{name}": value for name, value in metrics.items()}
                hooks.on_step(number * self._steps_per_epoch, {"seed": seed, "epoch": number, **scores})
            num_worse = number - 1 - max(range(number), key=lambda index: epochs[index].score)
            if number == settings.epochs or (settings.patience and num_worse >= settings.patience):
                # what no gradient reached, such as the output layer, has no moments
                trained = sum(p.numel() for p in model.parameters() if p in optimizer.state)
                logits = None if self.task.is_regression else outputs
                return Outcome(
                    epochs=epochs,
                    predictions=predicted,
                    num_trained=trained,
                    logits=logits,
                    of_epochs=tuple(of_epochs),
                )

    def _epoch(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batch_at: BatchAt,
        targets: Tensor,
        seed: int,
        number: int,
        hooks: Hooks,
    ) -> float:
        """Train on every example once. Returns the mean loss."""
        settings, num_examples = self.settings, len(self.task.train)
        first_step, num_steps = (number - 1) * self._steps_per_epoch, self.num_steps
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        model.train()
        for step, chosen in enumerate(epoch_batches(num_examples, settings.batch_size, seed, number), first_step):
            lr = learning_rate(step, num_steps, settings)
            set_learning_rate(optimizer, lr)
            loss = self._loss(model, batch_at(chosen), targets[chosen])
            loss.backward()
            if settings.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach() * len(chosen)
            hooks.on_progress(step + 1, num_steps)
            if hooks.on_step is not None:  # reading the loss waits for the device
                values = {"seed": seed, "epoch": number, "train/loss": loss.item(), "train/lr": lr}
                hooks.on_step(step + 1, values)
        return total.item() / num_examples

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a seed."""
        return self.settings.epochs * self._steps_per_epoch

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self.task.train) // self.settings.batch_size)

    def _targets(self) -> Tensor:
        """The training targets: class indices, or scores scaled to mean 0 and variance 1."""
        targets = torch.from_numpy(self.task.train.targets)
        if not self.task.is_regression:
            return targets.to(self.device)
        targets = targets.to(float64_device(self.device))
        return ((targets - targets.mean()) / targets.std(correction=0)).float().to(self.device)

    def _loss(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        with self._arithmetic():
            outputs = model(*inputs)
        if self.task.is_regression:
            return F.mse_loss(outputs[:, 0], targets)
        return F.cross_entropy(outputs, targets)

    @torch.no_grad()
    def _outputs(self, model: nn.Module, batch_at: BatchAt) -> Float[np.ndarray, "n outputs"]:
        """The head's outputs for every example to score on."""
        model.eval()
        return self._of_all("dev", lambda chosen: model(*batch_at(chosen))).cpu().double().numpy()

    def _as_predicted(self, outputs: Float[np.ndarray, "n outputs"]) -> NDArray[Any]:
        """Predicted class, or score in the task's own units."""
        if not self.task.is_regression:
            return outputs.argmax(1)
        truth = self.task.train.targets
        return outputs[:, 0] * truth.std() + truth.mean()

    @torch.no_grad()
    def _frozen_features(self, on_progress: OnProgress) -> Examples:
        """The backbone's pooled states of every text, scaled to mean 0 and variance 1 over the training texts."""
        found: dict[str, Float[Tensor, "n width"]] = {}
        for split in self.texts:
            ids_at = self._token_batches(split)

            def features(chosen: Sequence[int], ids_at: BatchAt = ids_at) -> Tensor:
                ids, lengths = ids_at(chosen)
                return pooled(self.backbone, ids, lengths, self.settings.pooling)

            found[split] = self._of_all(split, features, on_progress)
        mean, spread = found["train"].mean(0), found["train"].std(0, correction=0).clamp_min(1e-6)
        self._feature_mean, self._feature_spread = mean, spread
        train, dev = ((found[split] - mean) / spread for split in ("train", "dev"))
        return Examples(lambda indices: (train[indices],), lambda indices: (dev[indices],))

    def _of_all(
        self, split: str, function: Callable[[Sequence[int]], Tensor], on_progress: OnProgress = lambda *_: None
    ) -> Float[Tensor, "n outputs"]:
        """The outputs of `function` for every example of a split, in their order. It is called with batches of texts of
        similar length."""
        order = self.texts[split].by_length()
        parts = []
        for start in range(0, len(order), SCORING_BATCH):
            with self._arithmetic():
                parts.append(function(order[start : start + SCORING_BATCH]))
            on_progress(min(start + SCORING_BATCH, len(order)), len(order))
        found = torch.cat(parts)
        return torch.empty_like(found).index_copy_(0, torch.tensor(order, device=found.device), found)

    def _token_batches(self, split: str) -> BatchAt:
        texts, max_length = self.texts[split], self.settings.max_length

        def batch_at(indices: Sequence[int]) -> tuple[Tensor, ...]:
            return tuple(part.to(self.device) for part in texts.batch(indices, max_length))

        return batch_at

    def _arithmetic(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


class CrossValidation:
    """Trains as often as there are folds, each time on all examples outside of one, and scores those in it; so that
    each example is scored once, by a network that has not seen it. The classifier is trained on all examples."""

    def __init__(
        self,
        backbone: Any,
        task: Task,
        texts: EncodedTexts,
        settings: FinetuneSettings,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        assert task.fold is not None
        if settings.patience:
            raise UserError("`patience=` needs examples to stop by, and cross-validation has none; give some as `dev=`")
        self.task, self.settings = task, settings
        where: Any = {"device": device, "precision": precision}
        self._folds: list[Finetuning] = []
        for number in range(task.num_folds):
            part = task.without(number)
            train, dev = (
                texts.at(np.flatnonzero(mask).tolist()) for mask in (task.fold != number, task.fold == number)
            )
            self._folds.append(Finetuning(backbone, part, train, dev, settings, **where))
        # what it is scored on is read by nobody: the fewest will do
        whole = replace(task, dev=task.dev.at([0]), fold=None)
        self._whole = Finetuning(backbone, whole, texts, texts.at([0]), settings, **where)

    def run(self, seed: int, hooks: Hooks = NOBODY) -> Outcome:
        """Train and score every fold; see `Finetuning.run`."""
        task = self.task
        found = [fold.run(seed, self._hooks(hooks, number)) for number, fold in enumerate(self._folds)]

        def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
            whole = np.empty((len(task.dev), *parts[0].shape[1:]), parts[0].dtype)
            for number, part in enumerate(parts):
                whole[task.fold == number] = part
            return whole

        sizes = [len(fold.task.train) for fold in self._folds]
        of_epochs = tuple(joined([fold.of_epochs[e] for fold in found]) for e in range(self.settings.epochs))
        epochs = [
            Epoch(
                number=number + 1,
                train_loss=float(np.average([fold.epochs[number].train_loss for fold in found], weights=sizes)),
                metrics=measure(task.metrics, predicted, task.dev.targets),
                elapsed_s=sum(fold.epochs[number].elapsed_s for fold in found),
            )
            for number, predicted in enumerate(of_epochs)
        ]
        hooks.on_epoch(seed, epochs[-1])
        logits = [fold.logits for fold in found if fold.logits is not None]
        return Outcome(
            epochs=epochs,
            predictions=of_epochs[-1],
            num_trained=found[0].num_trained,
            logits=joined(logits) if logits else None,
            of_epochs=of_epochs,
        )

    def classifier(self, outcome: Outcome, seed: int, hooks: Hooks = NOBODY) -> Trained:
        """What the seed trains on all examples."""
        del outcome
        trained = self._whole.run(seed, Hooks(on_progress=hooks.on_progress)).trained
        assert trained is not None
        return trained

    def _hooks(self, hooks: Hooks, fold: int) -> Hooks:
        """What to tell while a fold runs: steps are counted over all of them, and its epochs' metrics are a part's."""
        num_steps = [part.num_steps for part in self._folds]
        before, on_step = sum(num_steps[:fold]), hooks.on_step

        def heard(step: int, values: Mapping[str, float]) -> None:
            if on_step is not None and "train/loss" in values:
                on_step(before + step, {**values, "fold": fold})

        return Hooks(
            on_step=None if on_step is None else heard,
            on_progress=lambda done, _: hooks.on_progress(before + done, sum(num_steps)),
        )


def learning_rate(step: int, num_steps: int, settings: FinetuneSettings) -> float:
    """Rate of step 0 .. num_steps - 1: linear from 0 to the peak, then linear to 0 just after the last step."""
    warmup_steps = round(settings.warmup_share * num_steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    return settings.lr * (num_steps - step) / (num_steps - warmup_steps)


def epoch_batches(num_examples: int, batch_size: int, seed: int, number: int) -> Iterator[list[int]]:
    """Batches of indices that hold every example once, in an order that is a function of (seed, epoch)."""
    order = np.random.default_rng((seed, number)).permutation(num_examples).tolist()
    for start in range(0, num_examples, batch_size):
        yield order[start : start + batch_size]


def dropout_of(backbone: nn.Module) -> float:
    """Dropout probability within a network as it was built: that of its first block; 0 where no block has any."""
    return next((block.dropout for block in _blocks_with_dropout(backbone)), 0.0)


def set_dropout(backbone: nn.Module, dropout: float) -> None:
    """Set the dropout probability of every block of a network. Raises UserError where it has no such blocks."""
    if not list(_blocks_with_dropout(backbone)) and dropout:
        raise UserError("the blocks of this backbone have no `dropout` to set; leave `backbone_dropout=` out")
    for block in _blocks_with_dropout(backbone):
        block.dropout = dropout


def _blocks_with_dropout(backbone: nn.Module) -> Iterator[Any]:
    for blocks in backbone.modules():
        if isinstance(blocks, nn.ModuleList):
            yield from (block for block in blocks if isinstance(getattr(block, "dropout", None), (int, float)))
