"""The private interfaces that the package touches are where it expects them."""

# ---------------------------------------------------------------------------------------------------- SpeechBrain


def test_dual_path_models_cut_into_chunks_and_add_up():
    import torch
    from speechbrain.lobes.models.dual_path import Dual_Path_Model

    from speechbrain_mamba.utils._compat import overlap_add, segment

    model = Dual_Path_Model(3, 3, torch.nn.Identity(), torch.nn.Identity(), K=4)
    x = torch.randn(2, 3, 11)
    chunks, gap = segment(model, x)
    assert chunks.shape[:3] == (2, 3, 4)
    torch.testing.assert_close(overlap_add(model, chunks, gap), 2 * x)  # half of each chunk overlaps with the next one


# ---------------------------------------------------------------------------------------------------- HyperPyYAML

# ---------------------------------------------------------------------------------------------------- PyTorch

# ---------------------------------------------------------------------------------------------------- Triton

# ---------------------------------------------------------------------------------------------------- EnCodec
