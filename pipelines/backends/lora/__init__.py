"""LoRA training with peft and transformers' Trainer; see `training`."""

from pipelines.backends.lora.chats import encode, layout
from pipelines.backends.lora.recipe import libraries, micro_batch, read_recipe
from pipelines.backends.lora.trainer import Settings, fresh_model
from pipelines.backends.lora.training import Trained, train

__all__ = ["Settings", "Trained", "encode", "fresh_model", "layout", "libraries", "micro_batch", "read_recipe", "train"]
