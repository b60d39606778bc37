# SPDX-License-Identifier: Apache-2.0
"""The video diffusion transformer: one network for every size and task, for training and for generation.

Every rank is given the whole latent and returns the whole prediction; tensor, sequence and context parallelism split
the tokens inside. Formulas: cosmos-predict1, ``diffusion/networks/general_dit.py``.
"""

import math

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import nn

from cosmos1.conditioning.action import ActionEmbedding
from cosmos1.conditioning.camera import camera_channels
from cosmos1.conditioning.trajectory import TrajectoryEmbedding
from cosmos1.conditioning.views import ViewEmbedding, tokens_per_view, view_channels
from cosmos1.models.diffusion.block import Conditioning, DiTLayer, DiTLayerSubmodules, DiTStack, Modulation
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.elementwise import modulated_layer_norm
from cosmos1.models.diffusion.megatron_config import MegatronDiTConfig, parallel_linears
from cosmos1.models.diffusion.positions import LearnablePositions, TokenGrid, rotary_angles, sinusoidal_positions
from cosmos1.models.elementwise import rms_norm
from cosmos1.models.pipeline_stage import PipelineStage
from cosmos1.parallel.token_ranges import token_ranges


class TimestepEmbedding(nn.Module):
    """Sinusoid of ``c_noise`` and a two-layer MLP without biases."""

    def __init__(self, config: MegatronDiTConfig):
        super().__init__()
        options = {"bias": False, "dtype": config.params_dtype, "device": config.device}
        self.linear_1 = nn.Linear(config.hidden_size, config.hidden_size, **options)
        self.linear_2 = nn.Linear(config.hidden_size, 3 * config.hidden_size, **options)
        # The official key name has this spelling.
        self.affline_norm = nn.Parameter(
            torch.empty(config.hidden_size, dtype=config.params_dtype, device=config.device)
        )

    def forward(
        self,
        timesteps_b: torch.Tensor,
        embedding_shift: torch.Tensor | float = 0.0,
        modulation_shift: torch.Tensor | float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(embedding [b, D], shared_modulation [b, 3 D])``; the embedding is the normalised sinusoid itself.

        A control signal shifts the sinusoid before it is normalised, and the modulation.
        """
        half = self.affline_norm.shape[0] // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timesteps_b.device) / half
        angle = timesteps_b.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)
        sinusoid = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linear_1.weight.dtype)
        shared_modulation = self.linear_2(F.silu(self.linear_1(sinusoid)))
        return rms_norm(sinusoid + embedding_shift, self.affline_norm), shared_modulation + modulation_shift


class FinalLayer(nn.Module):
    """Modulated norm and the projection of each token to its output patch, channels fastest."""

    def __init__(self, config: MegatronDiTConfig):
        super().__init__()
        patch_values = config.dit.latent_channels * config.dit.patch_spatial**2
        self.adaln = Modulation(config, num_outputs=2)
        self.epsilon = config.layernorm_epsilon
        self.linear = nn.Linear(
            config.hidden_size, patch_values, bias=False, dtype=config.params_dtype, device=config.device
        )

    def forward(self, x_sbD: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        shift, scale = self.adaln(conditioning.embedding, conditioning.shared_modulation)
        return self.linear(modulated_layer_norm(x_sbD, shift, scale, self.epsilon))


class LogVariance(nn.Module):
    """Per-sample uncertainty ``u(c_noise)``: random Fourier features and one linear layer (Karras et al. 2024)."""

    def __init__(self, config: MegatronDiTConfig, num_features: int = 128):
        super().__init__()
        for name in ("freqs", "phases"):
            self.register_buffer(name, torch.empty(num_features, dtype=torch.float32, device=config.device))
        self.linear = nn.Linear(num_features, 1, bias=False, dtype=config.params_dtype, device=config.device)

    def forward(self, c_noise_b: torch.Tensor) -> torch.Tensor:
        features = math.sqrt(2) * torch.cos(c_noise_b.float()[:, None] * self.freqs.float() + self.phases.float())
        return F.linear(features, self.linear.weight.float())[:, 0]


def _controls(dit: DiTConfig, options: dict, pre_process: bool) -> tuple:
    """The modules of the control signals: action on every pipeline stage, views and trajectory where patches are made."""
    action = ActionEmbedding(dit.action, dit.hidden_size, **options) if dit.action is not None else None
    views = ViewEmbedding(dit.views, **options) if dit.views is not None and pre_process else None
    has_trajectory = dit.trajectory is not None and pre_process
    return action, views, TrajectoryEmbedding(dit.trajectory, **options) if has_trajectory else None


def _without_zero_rows(text_BME: torch.Tensor) -> torch.Tensor:
    """Cut the rows at the end that are zero in every sample. On a GPU all stay: shapes that vary cost more than they
    save."""
    if text_BME.is_cuda:
        return text_BME
    used = text_BME.abs().amax(dim=(0, 2)).nonzero()
    return text_BME[:, : int(used[-1]) + 1 if len(used) else 1]


class DiT(PipelineStage):
    """The denoising network F of the EDM formulation, or one pipeline stage of it."""

    config: MegatronDiTConfig

    def add_layers(self) -> None:
        config, dit = self.config, self.config.dit
        options = {"dtype": config.params_dtype, "device": config.device}
        if self.pre_process:
            patch_values = dit.patch_input_channels * dit.patch_spatial**2
            self.x_embedder = nn.Linear(patch_values, config.hidden_size, bias=False, **options)
        self.action, self.views, self.trajectory = _controls(dit, options, self.pre_process)
        # Every pipeline stage embeds the timestep and the positions itself; only hidden states travel.
        self.t_embedder = TimestepEmbedding(config)
        self.extra_pos_embedder = (
            LearnablePositions(dit, config.params_dtype, config.device) if dit.learnable_positions else None
        )
        linears = DiTLayerSubmodules(*parallel_linears(dit.transformer_impl))
        self.decoder = self.stack(DiTStack, ModuleSpec(module=DiTLayer, submodules=linears), final_norm=None)
        if self.post_process:
            self.final_layer = FinalLayer(config)
            self.logvar = LogVariance(config)

    def forward(
        self,
        x_BCTHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text_BME: torch.Tensor,
        fps_B: torch.Tensor,
        padding_mask_B1HW: torch.Tensor,
        condition_mask_B1THW: torch.Tensor | None = None,
        controls: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Predict F for the scaled noisy latent ``c_in * x`` at ``timesteps = c_noise``.

        Args:
            x_BCTHW: ``[B, 16, T, H, W]`` latent times ``c_in``.
            timesteps_B: ``[B]``, ``0.25 * ln(sigma)``.
            text_BME: ``[B, M, text_embedding_dim]``, zero rows after the text; with a text for each of ``V`` views
                ``[B, V * M, text_embedding_dim]``.
            fps_B: ``[B]`` frames per second; the same for the whole batch.
            padding_mask_B1HW: 1 where a pixel (or latent position) is padding; resized to ``H x W`` by nearest.
            condition_mask_B1THW: 1 on given latent frames; exactly for networks with ``condition_mask``.
            controls: the control signals of ``config.controls``, by batch key: ``action`` ``[B, N, A]``,
                ``plucker_embeddings`` ``[B, T, 6, H, W]``, ``view_indices`` ``[B, V]`` with ``frame_repeat`` ``[B, V]``
                (or without: 0), ``trajectory`` ``[B, 192]``. With views, ``T`` counts the frames of all of them.

        Returns:
            ``[B, 16, T, H, W]`` in fp32; on pipeline stages before the last the hidden states ``[s, B, D]``.
        """
        dit = self.config.dit
        controls = controls or {}
        _, _, frames, height, width = x_BCTHW.shape
        num_views = controls["view_indices"].shape[1] if dit.views is not None else 1
        grid = TokenGrid(frames, height // dit.patch_spatial, width // dit.patch_spatial, num_views)
        cp_range, local_range = token_ranges(len(grid), self.tp_group, self.cp_group, self.config.sequence_parallel)
        hidden_states = None
        if self.pre_process:
            patches = self._patches(x_BCTHW, padding_mask_B1HW, condition_mask_B1THW, controls)
            hidden_states = self.x_embedder(patches[slice(*local_range)].to(self.x_embedder.weight.dtype))
        embeddings = self.t_embedder(timesteps_B, *(self.action(controls["action"]) if self.action is not None else ()))
        conditioning = self._conditioning(grid, cp_range, local_range, embeddings, text_BME, fps_B)
        x_sbD = self.decoder(hidden_states, conditioning)
        if not self.post_process:
            return x_sbD
        tokens = self.final_layer(x_sbD, conditioning)
        if self.config.sequence_parallel:
            tokens = gather_from_sequence_parallel_region(tokens, False, group=self.tp_group)
        if self.cp_group.size() > 1:
            tokens = gather_from_sequence_parallel_region(tokens, False, group=self.cp_group)
        return self._unpatched(tokens, grid).float()

    def _conditioning(self, grid, cp_range, local_range, embeddings, text_BME, fps_B) -> Conditioning:
        dit, device, dtype = self.config.dit, text_BME.device, self.t_embedder.linear_1.weight.dtype
        positions = None
        if self.extra_pos_embedder is not None:
            positions = self.extra_pos_embedder(grid, *local_range)
        elif dit.sinusoidal_positions:
            positions = sinusoidal_positions(dit, grid, *local_range, device, dtype)
        # Attention sees all tokens of the context-parallel rank, also under sequence parallelism.
        angles = rotary_angles(dit, grid, *cp_range, float(fps_B.flatten()[0]), device)
        num_texts = 1 if dit.views is None or dit.views.shared_text else grid.views
        # [B, V * M, E] to [V * B, M, E]
        text = text_BME.unflatten(1, (num_texts, -1)).transpose(0, 1).flatten(0, 1)
        tokens_per_text = tokens_per_view(*cp_range, len(grid), num_texts)
        rows = _without_zero_rows(text).transpose(0, 1).to(dtype)
        return Conditioning(*embeddings, rows, text.shape[1], tokens_per_text, positions, angles.cos(), angles.sin())

    def _patches(self, x_BCTHW, padding_mask_B1HW, condition_mask_B1THW, controls) -> torch.Tensor:
        """``[S, B, Cp * p * p]``: channels in the order of ``config.patch_channels``; the channel varies slowest."""
        dit = self.config.dit
        assert (condition_mask_B1THW is not None) == dit.condition_mask
        batch, _, *size = x_BCTHW.shape
        frames, height, width = size
        padding = F.interpolate(padding_mask_B1HW.to(x_BCTHW.dtype), size=(height, width), mode="nearest")
        channels = {"latent": x_BCTHW, "padding_mask": padding[:, :, None].expand(-1, -1, frames, -1, -1)}
        if dit.condition_mask:
            channels["condition_mask"] = condition_mask_B1THW
        if dit.camera is not None:
            channels["camera"] = camera_channels(controls["plucker_embeddings"])
        if dit.views is not None:
            embedding = self.views(controls["view_indices"], controls.get("frame_repeat"))
            channels["views"] = view_channels(embedding, *size)
        if dit.trajectory is not None:
            channels["trajectory"] = self.trajectory(controls["trajectory"], *size)
        x = torch.cat([channels[name].to(x_BCTHW.dtype) for name in dit.patch_channels], dim=1)
        p = dit.patch_spatial
        x = x.reshape(batch, x.shape[1], frames, height // p, p, width // p, p)
        return x.permute(2, 3, 5, 0, 1, 4, 6).flatten(4).flatten(0, 2)

    def _unpatched(self, tokens_SBP: torch.Tensor, grid: TokenGrid) -> torch.Tensor:
        """``[S, B, p * p * C]``, channel fastest, to ``[B, C, T, H, W]``."""
        p, batch = self.config.dit.patch_spatial, tokens_SBP.shape[1]
        x = tokens_SBP.reshape(grid.frames, grid.rows, grid.columns, batch, p, p, -1)
        return x.permute(3, 6, 0, 1, 4, 2, 5).reshape(batch, -1, grid.frames, grid.rows * p, grid.columns * p)
