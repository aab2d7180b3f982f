"""How a network learns: objectives, the loop, checkpoints, and an end on validation."""
from ..lazy import front_door

__getattr__, __all__ = front_door(
    __name__,
    objectives="OBJECTIVES Objective Settings find_objective make_model multinomial_loss settings_for",
    steps="Diverged Recorder Rows Training compare log_epochs mask_input",
    checkpoints="load_checkpoint save_checkpoint",
    layerwise="ItemBased pretrain_layers",
    loop="fit trainer",
)
