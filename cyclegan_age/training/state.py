"""A training: its parts, and its state, which saves and restores itself."""

import logging
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.data.batches import Batch
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.devices import rng_state, set_rng_state
from cyclegan_age.models.base import Model
from cyclegan_age.runs import load_checkpoint, save_checkpoint
from cyclegan_age.training.schedule import Schedule
from cyclegan_age.training.trainer import Trainer

logger = logging.getLogger("cyclegan_age")


@dataclass(kw_only=True, eq=False)
class Training:
    """A training in one of its processes.

    The first process writes the checkpoint, `state.pt` in the run's folder. Each process also writes
    `state-RANK-STEP.pt` with its RNG state and history buffers.

    Attributes:
        config: of the training.
        net: of the model.
        run: the run's folder.
        data: batches.
        accelerator: device, processes and trackers.
        schedule: counts the steps.
        trainer: runs them; has the model, its optimisers and the EMA weights.
        seen_before: images that the weights of `--init` were trained on.
        resumed: whether the training resumes from a checkpoint.
        progress: share of the training that is done, 0 to 1, at the last step.
        lr: learning rate of the last step.
    """

    config: TrainConfig
    net: ModelConfig
    run: Path
    data: FaceData
    accelerator: Accelerator
    schedule: Schedule
    trainer: Trainer
    seen_before: int = 0
    resumed: bool = False
    progress: float = 0.0
    lr: float = 0.0

    @property
    def model(self) -> Model:
        """The model."""
        return self.trainer.model

    @property
    def is_main(self) -> bool:
        """Whether this process writes the shared files."""
        return bool(self.accelerator.is_main_process)

    @property
    def images_seen(self) -> int:
        """Images that the weights were trained on."""
        return self.seen_before + self.schedule.step * self.schedule.per_step

    @property
    def ended(self) -> bool:
        """Whether the training is complete."""
        return self.progress >= 1

    def train_step(self, batch: Batch) -> None:
        """Do and count a step."""
        self.trainer(batch, self.schedule.before, self.progress)
        self.lr = self.trainer.learning_rate(self.progress)
        self.schedule.before, self.progress = self.progress, self.schedule.advance()

    def restore(self) -> None:
        """Resume from the run's checkpoint, if it has one.

        Raises:
            UserError: it cannot be read, or has another number of processes.
        """
        state = load_checkpoint(self.run / "state.pt")
        if not state:
            return
        schedule, per_step = self.schedule, self.schedule.per_step
        if state.get("per_step", per_step) != per_step:
            raise UserError(
                f"{self.run}: {state['per_step'] // self.config.batch_size} processes trained it, "
                f"now there are {self.accelerator.num_processes}; "
                f"start as many, or start from its weights by --init {self.run.name} with another --name"
            )
        self.resumed, self.seen_before = True, state.get("seen_before", 0)
        schedule.load_state_dict(state)
        self.trainer.load_state_dict(state)
        own = load_checkpoint(self._own_file()) or {}
        if "random" in own:  # the RNG state
            set_rng_state(own["random"])
            for name, pool in own["pools"].items():  # missing in a light checkpoint
                self.model.pools[name].load_state_dict(pool)
        if not schedule.ended:
            logger.info("%s: resumes at step %d of %s", self.run, schedule.step, schedule.length)
            if "optimizers" not in state:
                logger.info("%s: a light checkpoint: the optimisers start without state", self.run)

    def save(self) -> None:
        """Write the checkpoint. The previous one stays until the new one is complete.

        Raises:
            OSError: it cannot be written; the previous one is kept.
        """
        light, own = self.config.checkpoint == "light", self._own_file()
        pools = {} if light else {name: pool.state_dict() for name, pool in self.model.pools.items()}
        try:
            save_checkpoint(own, {"random": rng_state(self.accelerator.device), "pools": pools})
            self.accelerator.wait_for_everyone()
            if self.is_main:
                counts = {"per_step": self.schedule.per_step, "seen_before": self.seen_before}
                state = counts | self.schedule.state_dict() | self.trainer.state_dict(light=light)
                save_checkpoint(self.run / "state.pt", state)
        except OSError:  # it belongs to no complete checkpoint
            own.unlink(missing_ok=True)
            raise
        if self.is_main:
            self.remove_old_files()

    def remove_old_files(self) -> None:
        """Remove files of other checkpoints, including those of an interrupted save."""
        for file in self.run.glob("state-*.pt"):
            if not file.stem.endswith(f"-{self.schedule.step}"):
                file.unlink()

    def _own_file(self) -> Path:
        return self.run / f"state-{self.accelerator.process_index}-{self.schedule.step}.pt"
