"""What is served: the modules of mamba-ssm and causal-conv1d, and for each of their names where ours is."""

from __future__ import annotations

_SCAN = {name: "selective_scan" for name in ("selective_scan_fn", "mamba_inner_fn")}
_NORMS = {name: "norms" for name in ("RMSNorm", "layer_norm_fn", "rms_norm_fn")}
_CONV = {name: "convolution" for name in ("causal_conv1d_fn", "causal_conv1d_update")}

MODULES: dict[str, dict[str, str]] = {
    "mamba_ssm": {**_SCAN, "Mamba": "mamba_layer", "Mamba2": "mamba2_layer"},
    "mamba_ssm.distributed": {},
    "mamba_ssm.distributed.distributed_utils": {"all_reduce": "tensor_parallel", "reduce_scatter": "tensor_parallel"},
    "mamba_ssm.distributed.tensor_parallel": {
        name: "tensor_parallel" for name in ("ColumnParallelLinear", "RowParallelLinear")
    },
    "mamba_ssm.models": {},
    "mamba_ssm.models.mixer_seq_simple": {
        "Block": "blocks",
        "GatedMLP": "blocks",
        "GenerationMixin": "hub",
        "Mamba": "mamba_layer",
        "Mamba2": "mamba2_layer",
        "RMSNorm": "norms",
        "_init_weights": "blocks.init_weights",
        "create_block": "blocks",
        "load_config_hf": "hub",
        "load_state_dict_hf": "hub",
    },
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.block": {"Block": "blocks"},
    "mamba_ssm.modules.mamba2": {"Mamba2": "mamba2_layer"},
    "mamba_ssm.modules.mamba_simple": {"Mamba": "mamba_layer", "Block": "blocks.MixerBlock"},
    "mamba_ssm.modules.mlp": {"GatedMLP": "blocks"},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": {
        **_SCAN,
        "selective_scan_ref": "selective_scan",
        "mamba_inner_ref": "selective_scan",
    },
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.layer_norm": {**_NORMS, "_layer_norm_fwd": "norms.layer_norm_forward"},
    "mamba_ssm.ops.triton.layernorm": _NORMS,
    "mamba_ssm.ops.triton.layernorm_gated": {
        name: "gated_norms" for name in ("LayerNorm", "RMSNorm", "layernorm_fn", "rms_norm_ref", "rmsnorm_fn")
    },
    "mamba_ssm.ops.triton.selective_state_update": {
        name: "state_update" for name in ("selective_state_update", "selective_state_update_ref")
    },
    "mamba_ssm.ops.triton.ssd_combined": {
        name: "chunk_scan" for name in ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")
    },
    "mamba_ssm.utils": {},
    "mamba_ssm.utils.generation": {"GenerationMixin": "hub", "InferenceParams": "layer_state"},
    "mamba_ssm.utils.hf": {"load_config_hf": "hub", "load_state_dict_hf": "hub"},
    "mamba_ssm.utils.torch": {"custom_bwd": "amp", "custom_fwd": "amp"},
    "selective_scan_cuda": {"fwd": "compiled_scan", "bwd": "compiled_scan"},
    "causal_conv1d": _CONV,
    "causal_conv1d.causal_conv1d_interface": {
        **_CONV,
        "causal_conv1d_ref": "convolution",
        "causal_conv1d_update_ref": "convolution",
    },
    "causal_conv1d.causal_conv1d_varlen": {
        name: "convolution" for name in ("causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref")
    },
    "causal_conv1d.cpp_functions": {
        f"{name}_function": f"compiled_conv.{name}"
        for name in ("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update")
    },
    "causal_conv1d_cuda": {
        name: "compiled_conv" for name in ("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update")
    },
}
"""Names of each module, each with its module in this package, and there its own name if it is another one."""

VERSIONS = {"mamba_ssm": "2.3.2", "causal_conv1d": "1.6.1"}
"""The versions whose interface is served."""

PACKAGES = {
    "mamba_ssm": "mamba-ssm",
    "selective_scan_cuda": "mamba-ssm",
    "causal_conv1d": "causal-conv1d",
    "causal_conv1d_cuda": "causal-conv1d",
}
"""The top-level modules, each with what installs it."""


def describe_missing(module: str, name: str) -> str:
    """A sentence on a name of a module, or of a submodule, that is not served.

    Example
    -------
    >>> describe_missing("mamba_ssm.modules.mlp", "MLP")  # doctest: +ELLIPSIS
    'speechbrain_mamba.drop_in does not serve mamba_ssm.modules.mlp.MLP: it serves GatedMLP of ...
    """
    top = module.partition(".")[0]
    inside = [child for parent, _, child in (known.rpartition(".") for known in MODULES) if parent == module]
    names = ", ".join([*MODULES[module], *inside])
    return (
        f"speechbrain_mamba.drop_in does not serve {module}.{name}: it serves {names} of {module}, as docs/drop_in.md "
        f"lists. Install {PACKAGES[top]} for all of it, which needs a GPU."
    )
