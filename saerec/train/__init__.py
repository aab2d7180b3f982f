"""How a network learns: objectives, the loop, checkpoints, and an end on validation."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, {
    "objectives": "OBJECTIVES Settings batch_size_for loss_divisor make_model multinomial_loss objective_loss valid_loss",
    "recorder": "Recorder compare progress_bar simple_baselines",
    "steps": "Diverged Loss Rows Training mask_input",
    "checkpoints": "load_checkpoint save_checkpoint",
    "layerwise": "ItemSide pretrain_layers",
    "loop": "fit trainer",
})
