# SPDX-License-Identifier: Apache-2.0
"""What every network has in common as a module: its place in the pipeline, and a stack of layers in its middle."""

from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)

from cosmos1.models.megatron_settings import MegatronNetworkConfig


class PipelineStage(MegatronModule):
    """A network, or one pipeline stage of it. Each network says in :meth:`add_layers` what it consists of.

    Args:
        pg_collection: process groups; tensor, context and pipeline parallelism are used.
        pre_process: whether this stage takes the input of the network, otherwise hidden states.
        post_process: whether this stage returns the output of the network, otherwise hidden states.
        vp_stage: index of the chunk where a rank holds several (interleaved stages).
    """

    decoder: TransformerBlock

    def __init__(
        self,
        config: MegatronNetworkConfig,
        pg_collection,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ):
        super().__init__(config=config)
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.tp_group, self.cp_group = pg_collection.tp, pg_collection.cp
        # Three names that Megatron-core's schedules read.
        self.model_type = ModelType.encoder_or_decoder
        self.share_embeddings_and_output_weights = False
        self.pg_collection = pg_collection
        self.add_layers()

    def add_layers(self) -> None:
        """Make the modules of this stage, ``decoder`` among them; their order is that of the parameters."""
        raise NotImplementedError

    def stack(self, kind: type[TransformerBlock], layer: ModuleSpec, final_norm: type | None) -> TransformerBlock:
        """The layers of this stage, and after the last one of the network a norm."""
        num_layers = get_num_layers_to_build(self.config, self.vp_stage, self.pg_collection.pp.rank())
        return kind(
            self.config,
            TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=final_norm),
            post_layer_norm=final_norm is not None,
            pre_process=self.pre_process,
            post_process=self.post_process,
            pg_collection=self.pg_collection,
            vp_stage=self.vp_stage,
        )

    def set_input_tensor(self, input_tensor) -> None:
        """Receive the hidden states of the previous pipeline stage (called by Megatron-core's schedules)."""
        self.decoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)
