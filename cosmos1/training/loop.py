# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

import signal
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist
import yaml
from megatron.core import parallel_state

from cosmos1.checkpoint import folders
from cosmos1.checkpoint.folders import Checkpoint
from cosmos1.checkpoint.store import CheckpointWriter
from cosmos1.errors import ConfigError
from cosmos1.parallel import device as devices
from cosmos1.parallel.megatron import clip_gradients
from cosmos1.parallel.strategy import micro_batches_per_step
from cosmos1.training import adapters, bad_steps, run_state, start_report
from cosmos1.training import optimizer as optimizers
from cosmos1.training.config import AutoResume, Logger, MegatronOptimizer, Trainer
from cosmos1.training.metrics import MetricsLogger
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_folder import choose_run_folder, to_plain
from cosmos1.training.save_attempts import SaveAttempts
from cosmos1.training.schedule import learning_rate
from cosmos1.training.schedule_runner import MetricSums, run_micro_batches
from cosmos1.training.stragglers import StragglerReport
from cosmos1.training.watchdog import Watchdog


class TrainingRun:
    """One run from its first or resumed step to its last. Callbacks get this object."""

    def __init__(self, task, data, trainer: Trainer, optim: MegatronOptimizer, log: Logger, resume: AutoResume, lora):
        self.task, self.data, self.trainer, self.optim, self.log, self.resume = task, data, trainer, optim, log, resume
        self.lora = lora
        self.world_size = dist.get_world_size()
        self.dp_rank = parallel_state.get_data_parallel_rank()
        self.dp_size = parallel_state.get_data_parallel_world_size()
        self.num_micro_batches = micro_batches_per_step(data, trainer.strategy, self.dp_size)
        recipe = to_plain(
            {"model": task, "data": data, "trainer": trainer, "optim": optim, "log": log, "resume": resume}
            | {"model_transform": lora}
        )
        self.folder = choose_run_folder(log, resume.resume_if_exists, recipe)
        self.recipe_text = yaml.safe_dump(recipe, sort_keys=False)
        self.metrics = MetricsLogger(self.folder, trainer.max_steps, dist.get_rank() == 0, recipe)
        ckpt, message = log.ckpt, self.metrics.message
        self.writer = CheckpointWriter(self.folder / "checkpoints", ckpt.keep_last_k, ckpt.keep_every_n_steps, message)
        transform = adapters.transform(lora, optim, resume, trainer.seed)
        self.model = ParallelModel(task, trainer.strategy, trainer.precision, trainer.seed, transform=transform)
        self.model.add_optimizer(optim, trainer.precision)
        self.progress = run_state.Progress()
        self.watchdog = Watchdog(trainer.hang, self.folder)
        self.stragglers = StragglerReport(trainer.straggler_percent)
        self.saves = SaveAttempts(self.folder, ckpt.max_failed_saves, message)
        self.signalled = False
        self.metric_sums = MetricSums(self.model)

    # ---- start and end ----

    def fit(self) -> None:
        """Train to ``trainer.max_steps``, or until SIGTERM asks to save and stop."""
        for line in start_report.facts(self):
            self.metrics.message(line)
        self._restore()
        # Only now: a folder of another recipe refuses to be continued, and keeps its own record.
        if dist.get_rank() == 0:
            (self.folder / "recipe.yaml").write_text(self.recipe_text)
        with self.metrics, self._stop_on_signal(), self.watchdog:
            self._notify("on_train_start")
            stopped = self._train()
            self.watchdog.enter("callbacks", self.progress.step)
            self._notify("on_train_end")
            self.watchdog.enter("saving", self.progress.step)
            self.writer.finish()
            state = "stopped by a signal" if stopped else "finished"
            self.metrics.message(
                f"{state} at step {self.progress.step}; {self.progress.skipped_steps} steps skipped; run folder {self.folder}"
            )

    def _restore(self) -> None:
        folder = self.folder / "checkpoints"
        found: list[list[Checkpoint]] = [[]]
        if dist.get_rank() == 0:
            for line in folders.remove_unfinished(folder):
                self.metrics.message(line)
            found = [folders.complete_checkpoints(folder) if self.resume.resume_if_exists else []]
        dist.broadcast_object_list(found, src=0)
        if found[0]:
            checkpoint, self.progress, warnings = run_state.resume_newest_good(self.model, found[0], self.data)
            for line in [*warnings, *start_report.resume_facts(self, checkpoint)]:
                self.metrics.message(line)
        elif self.resume.restore_config is not None and self.resume.restore_config.path:
            for line in run_state.load_weights(self.model, self.resume.restore_config):
                self.metrics.message(line)
        else:
            self._start_untrained()
        self.metrics.truncate_after(self.progress.step)

    def _start_untrained(self) -> None:
        if self.lora is not None and self.resume.restore_config is not None:
            raise ConfigError(
                "model_transform=lora adapts a trained network, and the weights of this one are initial; give "
                "resume.restore_config.path=CHECKPOINT (or, to measure speed, resume.restore_config=None)"
            )
        self.model.start_untrained()
        self.metrics.message("weights: initial, untrained; resume.restore_config.path=CHECKPOINT starts from a network")

    @contextmanager
    def _stop_on_signal(self):
        """SIGTERM (Slurm preemption, torchrun shutdown) sets a flag of this rank; when the ranks next agree, all save and leave.

        Nothing else writes the flag: a signal may come at any moment, also while the ranks agree.
        """

        def note(number, frame):
            self.signalled = True

        previous = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _notify(self, event: str, *arguments) -> None:
        for callback in self.trainer.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(self, *arguments)

    # ---- steps ----

    def _train(self) -> bool:
        """Whether a signal ended it."""
        loader = self.data.train_batches(self.dp_rank, self.dp_size, self.progress.consumed_samples)
        devices.reset_peak_memory()
        while self.progress.step < self.trainer.max_steps:
            started = time.perf_counter()
            self.watchdog.enter("waiting for data", self.progress.step + 1)
            batches = [next(loader) for _ in range(self.num_micro_batches)]
            loaded = time.perf_counter()
            self.watchdog.enter("computing", self.progress.step + 1)
            values = self._step(batches)
            self.stragglers.add(loaded - started)
            if values:
                values |= self._speed(batches, time.perf_counter() - started, loaded - started)
                self._log(values)
            if self._after_step(values):
                return True
        return False

    def _log(self, values: dict[str, float]) -> None:
        for line in self.stragglers.compare(values["step_time_s"]):
            self.metrics.message(line)
        self.metrics.log(self.progress.step, values)

    def _after_step(self, values: dict[str, float]) -> bool:
        """Callbacks, validation and saving, where they are due; whether all ranks stop here, because one was signalled."""
        step, ckpt, interval = self.progress.step, self.log.ckpt, self.trainer.val_check_interval
        is_last = step == self.trainer.max_steps
        self.watchdog.enter("callbacks", step)
        self._notify("on_step_end", values)
        if interval and self.trainer.limit_val_batches and (step % interval == 0 or is_last):
            self.watchdog.enter("validation", step)
            self.validate()
        self.watchdog.enter("agreeing to go on", step)
        stopping, retry = self._agree()
        due = step % ckpt.every_n_train_steps == 0 or (is_last and ckpt.save_last) or stopping or retry
        if due or is_last:
            self._finish_pending()  # an attempt of its own: if it fails, there is still the one of this step
        if due or (is_last and self.saves.num_failed):
            self.watchdog.enter("saving", step)
            with self.saves.attempt(is_final=is_last or stopping):
                self.save()
        return stopping

    def _step(self, batches: list[dict]) -> dict[str, float]:
        """One optimizer step; gradients that are NaN or infinite are not applied."""
        optimizer, config = self.model.optimizer, self.optim.config
        lr = learning_rate(self.optim.lr_scheduler, config.lr, self.trainer.max_steps, self.progress.step)
        optimizers.set_learning_rate(optimizer, self.optim, lr, self.progress.step)
        for chunk in self.model.chunks:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        adapters.draw_dropout(self.lora, self.model.networks, self.trainer.seed, self.progress.step)
        results = run_micro_batches(self.model, batches, self.trainer.seed, training=True)
        grad_norm = self._apply_gradients(optimizer)
        self.progress.step += 1
        self.progress.consumed_samples += self.data.global_batch_size
        self.metric_sums.add(results)
        if self.progress.step % self.trainer.log_every_n_steps and self.progress.step != self.trainer.max_steps:
            return {}
        return {
            **self.task.summarize(self.metric_sums.reduce()),
            "lr": lr,
            "grad_norm": grad_norm,
            "skipped_steps": self.progress.skipped_steps,
        }

    def _apply_gradients(self, optimizer) -> float:
        """Clip and update, unless the gradients are bad; returns the global gradient norm before clipping."""
        inner = optimizer.chained_optimizers[0]
        inner.prepare_grads()
        grad_norm = inner.get_grad_norm()
        if self.trainer.spike.factor is not None:
            grad_norm = bad_steps.agreed(grad_norm)
        reason = bad_steps.reason_to_skip(grad_norm, self.trainer.spike, self.progress)
        if reason is not None:
            self._skip_bad_step(reason)
            return grad_norm
        if self.optim.config.clip_grad > 0:
            clip_gradients(inner.get_parameters(), self.optim.config.clip_grad, grad_norm)
        inner.step_with_ready_grads()
        self.progress.consecutive_bad_steps = 0
        self.model.ema.update(self.progress.step)
        return grad_norm

    def _skip_bad_step(self, reason: str) -> None:
        self.progress.skipped_steps += 1
        self.progress.consecutive_bad_steps += 1
        self.metrics.message(f"step {self.progress.step + 1}: {reason}; the step is skipped")
        if self.progress.consecutive_bad_steps >= self.trainer.max_bad_steps:
            self.watchdog.enter("saving", self.progress.step + 1)
            self.writer.finish()
            raise ConfigError(
                f"{self.progress.consecutive_bad_steps} consecutive steps had NaN or infinite gradients, or spikes "
                f"(trainer.max_bad_steps={self.trainer.max_bad_steps}); lower optim.config.lr, check the data for NaN, or "
                "resume from an earlier checkpoint"
            )

    def _agree(self) -> tuple[bool, bool]:
        """Whether any rank was signalled to stop, and whether a failed save is to be tried again. Collective.

        Also makes a finished background save visible.
        """
        flags = torch.tensor([float(self.signalled), float(self.saves.retry_due()), float(self.writer.is_writing)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        if not flags[2]:
            self._finish_pending()
        return bool(flags[0]), bool(flags[1])

    def _speed(self, batches: list[dict], step_time: float, data_time: float) -> dict[str, float]:
        samples = self.data.global_batch_size
        flops = self.task.training_flops(batches[0], frozen=self.lora is not None)
        tflops = flops * samples / step_time / self.world_size / 1e12
        values = {
            "step_time_s": step_time,
            "data_time_s": data_time,
            "samples_per_s": samples / step_time,
            "tokens_per_s": samples * self.task.num_tokens(batches[0]) / step_time,
            "tflops_per_gpu": tflops,
            "memory_gib": devices.peak_memory_gib(),
        }
        if devices.peak_tflops() is not None:
            values["mfu"] = tflops / devices.peak_tflops()
        return values

    # ---- validation and checkpoints ----

    def validate(self) -> dict[str, float]:
        """Held-out loss, total and by noise level, on the same samples and noise every time."""
        sums = MetricSums(self.model)
        with self.model.evaluating():
            for batch in self.data.validation_batches(self.dp_rank, self.dp_size, self.trainer.limit_val_batches):
                sums.add(run_micro_batches(self.model, [batch], self.trainer.seed, training=False))
        means = self.task.summarize(sums.reduce())
        if not means:
            return {}
        values = {f"val_{name}": value for name, value in means.items()}
        self.metrics.log(self.progress.step, values)
        self._notify("on_validation_end", values)
        return values

    def save(self) -> None:
        """Save a checkpoint of this step, in the background unless ``log.ckpt.async_save`` is off."""
        epoch = self.progress.consumed_samples // max(self.data.num_train_samples, 1)
        state = run_state.sharded_state(self.model, self.progress, self.data)
        self.writer.start(folders.folder_name(epoch, self.progress.step), state, {"recipe.yaml": self.recipe_text})
        if not self.log.ckpt.async_save:
            self._finish_save()

    def _finish_pending(self) -> None:
        """Make a started save visible, if there is one; if it failed, that is said and a later one makes up for it."""
        if self.writer.has_pending:
            self.watchdog.enter("saving", self.progress.step)
            with self.saves.attempt():
                self._finish_save()

    def _finish_save(self) -> None:
        self.writer.finish()
        self.saves.succeeded()
