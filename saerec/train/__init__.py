"""How a network learns: objectives, the loop, checkpoints, and an end on validation."""
from ..lazy import front_door

__getattr__, __all__ = front_door(__name__, {
    "loop": "OBJECTIVES Diverged ItemSide Loss Recorder Rows Settings Training batch_size_for compare fit load_checkpoint "
            "loss_divisor make_model mask_input multinomial_loss objective_loss pretrain_layers progress_bar save_checkpoint "
            "simple_baselines trainer valid_loss",
})
