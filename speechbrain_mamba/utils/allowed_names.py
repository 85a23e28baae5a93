"""The classes and functions that the ``hyperparams.yaml`` of a model may name, each by its exact name.

A name is here because a model that this package or SpeechBrain exports needs it for inference, and because nothing that
a file can give it reads, writes, downloads or runs anything: layers, features, searches, tokenizers without a file.
Names with an argument that could do so are in :data:`LIMITED`, without this argument. ``tests/utils/
test_allowed_names.py`` looks into the code of each for calls that would not be harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Permission:
    """What a model may do with a name.

    Attributes
    ----------
    uses : frozenset of str
        The tags: ``new`` makes an object of a class, ``name`` passes the class or function on, ``apply`` calls it.
    only : frozenset of str, optional
        The arguments that may be given, by name. All may by default.
    without : frozenset of str
        Arguments that are set to None whatever the file says, such as folders to write to.
    sources : frozenset of str
        Arguments that name models to download, which the caller must have agreed to.
    """

    uses: frozenset[str] = frozenset({"new", "name"})
    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()

    @property
    def by_name(self) -> bool:
        """Whether arguments must have their names."""
        return self.only is not None or bool(self.without or self.sources)


PRETRAINER = "speechbrain.utils.parameter_transfer.Pretrainer"

_OWN = """
speechbrain_mamba.decoders.S2SMambaBeamSearcher
speechbrain_mamba.decoders.ctc.GreedyContext
speechbrain_mamba.decoders.ctc.decode_greedily
speechbrain_mamba.decoders.sampling.TokenSampler
speechbrain_mamba.decoders.seq2seq.S2SMambaBeamSearcher
speechbrain_mamba.lobes.models.dual_path.DualPathModel
speechbrain_mamba.lobes.models.mamba_tasnet.MaskNet
speechbrain_mamba.lobes.models.recognition.convolution.ConvolutionFrontEnd
speechbrain_mamba.lobes.models.recognition.ctc_encoder.CTCEncoder
speechbrain_mamba.lobes.models.recognition.seq2seq_encoder.Seq2SeqEncoder
speechbrain_mamba.lobes.models.recognition.streaming_interface.StreamingEncoder
speechbrain_mamba.lobes.models.recognition.streaming_interface.StreamingExtractor
speechbrain_mamba.lobes.models.recognition.speech_features.StreamableFbank
speechbrain_mamba.lobes.models.recognition.transformer_asr.TransformerASR
speechbrain_mamba.lobes.models.separation.dual_path.DualPathModel
speechbrain_mamba.lobes.models.separation.mamba_tasnet.MaskNet
speechbrain_mamba.lobes.models.synthesis.AutoregressiveCodecLM
speechbrain_mamba.lobes.models.synthesis.NonAutoregressiveCodecLM
speechbrain_mamba.lobes.models.synthesis.autoregressive.AutoregressiveCodecLM
speechbrain_mamba.lobes.models.synthesis.non_autoregressive.NonAutoregressiveCodecLM
speechbrain_mamba.lobes.models.transformer_asr.TransformerASR
speechbrain_mamba.nnet.blocks.MambaBlocksSequential
speechbrain_mamba.nnet.cross_mamba.CrossAttention
speechbrain_mamba.nnet.cross_mamba.PrefixBidirectional
speechbrain_mamba.nnet.hidden_attention.HiddenAttention
speechbrain_mamba.nnet.interleaving.Interleaved
speechbrain_mamba.nnet.mamba.Mamba
speechbrain_mamba.text.spelling.SpellingContext
speechbrain_mamba.text.spelling.spell_next
"""

_TORCH = """
torch.nn.BatchNorm1d
torch.nn.BatchNorm2d
torch.nn.Dropout
torch.nn.ELU
torch.nn.GELU
torch.nn.LayerNorm
torch.nn.LeakyReLU
torch.nn.Linear
torch.nn.LogSoftmax
torch.nn.ModuleList
torch.nn.PReLU
torch.nn.ReLU
torch.nn.SELU
torch.nn.Sequential
torch.nn.SiLU
torch.nn.Sigmoid
torch.nn.Softmax
torch.nn.Tanh
"""

_SPEECHBRAIN = """
speechbrain.dataio.encoder.CTCTextEncoder
speechbrain.dataio.encoder.CategoricalEncoder
speechbrain.dataio.encoder.TextEncoder
speechbrain.dataio.preprocess.AudioNormalizer
speechbrain.decoders.S2SRNNBeamSearcher
speechbrain.decoders.S2SRNNGreedySearcher
speechbrain.decoders.S2STransformerBeamSearcher
speechbrain.decoders.S2STransformerGreedySearcher
speechbrain.decoders.ctc.ctc_greedy_decode
speechbrain.decoders.ctc_greedy_decode
speechbrain.decoders.scorer.CTCScorer
speechbrain.decoders.scorer.CoverageScorer
speechbrain.decoders.scorer.LengthScorer
speechbrain.decoders.scorer.RNNLMScorer
speechbrain.decoders.scorer.ScorerBuilder
speechbrain.decoders.scorer.TransformerLMScorer
speechbrain.decoders.seq2seq.S2SRNNBeamSearcher
speechbrain.decoders.seq2seq.S2SRNNGreedySearcher
speechbrain.decoders.seq2seq.S2STransformerBeamSearcher
speechbrain.decoders.seq2seq.S2STransformerGreedySearcher
speechbrain.decoders.seq2seq.S2SWhisperBeamSearcher
speechbrain.decoders.seq2seq.S2SWhisperGreedySearcher
speechbrain.decoders.transducer.TransducerBeamSearcher
speechbrain.decoders.transducer.TransducerBeamSearcher.transducer_greedy_decode_streaming
speechbrain.decoders.transducer.TransducerGreedySearcherStreamingContext
speechbrain.lobes.features.Fbank
speechbrain.lobes.features.MFCC
speechbrain.lobes.features.StreamingFeatureWrapper
speechbrain.lobes.models.CRDNN.CRDNN
speechbrain.lobes.models.ECAPA_TDNN.Classifier
speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
speechbrain.lobes.models.RNNLM.RNNLM
speechbrain.lobes.models.ResNet.Classifier
speechbrain.lobes.models.ResNet.ResNet
speechbrain.lobes.models.VanillaNN.VanillaNN
speechbrain.lobes.models.Xvector.Classifier
speechbrain.lobes.models.Xvector.Xvector
speechbrain.lobes.models.convolution.ConvolutionFrontEnd
speechbrain.lobes.models.dual_path.Decoder
speechbrain.lobes.models.dual_path.DPTNetBlock
speechbrain.lobes.models.dual_path.Dual_Path_Model
speechbrain.lobes.models.dual_path.Encoder
speechbrain.lobes.models.dual_path.IdentityBlock
speechbrain.lobes.models.dual_path.PytorchTransformerBlock
speechbrain.lobes.models.dual_path.SBConformerEncoderBlock
speechbrain.lobes.models.dual_path.SBTransformerBlock
speechbrain.lobes.models.transformer.TransformerASR.EncoderWrapper
speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
speechbrain.lobes.models.transformer.TransformerLM.TransformerLM
speechbrain.nnet.CNN.Conv1d
speechbrain.nnet.CNN.Conv2d
speechbrain.nnet.RNN.AttentionalRNNDecoder
speechbrain.nnet.RNN.GRU
speechbrain.nnet.RNN.LSTM
speechbrain.nnet.RNN.LiGRU
speechbrain.nnet.RNN.RNN
speechbrain.nnet.activations.Softmax
speechbrain.nnet.activations.Swish
speechbrain.nnet.containers.LengthsCapableSequential
speechbrain.nnet.containers.ModuleList
speechbrain.nnet.containers.Sequential
speechbrain.nnet.dropout.Dropout2d
speechbrain.nnet.embedding.Embedding
speechbrain.nnet.linear.Linear
speechbrain.nnet.losses.ctc_loss
speechbrain.nnet.losses.kldiv_loss
speechbrain.nnet.losses.nll_loss
speechbrain.nnet.normalization.BatchNorm1d
speechbrain.nnet.normalization.BatchNorm2d
speechbrain.nnet.normalization.LayerNorm
speechbrain.nnet.pooling.AdaptivePool
speechbrain.nnet.pooling.Pooling1d
speechbrain.nnet.pooling.StatisticsPooling
speechbrain.nnet.transducer.transducer_joint.Transducer_joint
speechbrain.processing.features.Deltas
speechbrain.processing.features.Filterbank
speechbrain.processing.features.ContextWindow
speechbrain.processing.features.InputNormalization
speechbrain.processing.features.STFT
speechbrain.processing.features.spectral_magnitude
speechbrain.tokenizers.SentencePiece.SentencePieceDecoderStreamingContext
speechbrain.tokenizers.SentencePiece.spm_decode_preserve_leading_space
speechbrain.utils.dynamic_chunk_training.DynChunkTrainConfig
speechbrain.utils.filter_analysis.FilterProperties
"""

_WAV2VEC2 = Permission(
    frozenset({"new"}),
    # not trust_remote_code, which runs code of the model that is downloaded
    only=frozenset(
        {
            "source",
            "save_path",
            "output_norm",
            "freeze",
            "freeze_feature_extractor",
            "apply_spec_augment",
            "output_all_hiddens",
        }
    ),
    without=frozenset({"save_path"}),
    sources=frozenset({"source"}),
)
_WHISPER = Permission(
    frozenset({"new"}),
    only=frozenset(
        {
            "source",
            "save_path",
            "sampling_rate",
            "encoder_only",
            "freeze",
            "freeze_encoder",
            "output_attentions",
            "output_all_hiddens",
            "language",
            "task",
        }
    ),
    without=frozenset({"save_path"}),
    sources=frozenset({"source"}),
)
_PARTS = ["wav2vec2.Wav2Vec2", "hubert.HuBERT", "wavlm.WavLM"]
_HUGGINGFACE = ["speechbrain.integrations.huggingface", "speechbrain.lobes.models.huggingface_transformers"]

LIMITED: dict[str, Permission] = {
    # the flags of our recognizers' features: functions of numbers
    "operator.not_": Permission(frozenset({"apply"})),
    "operator.or_": Permission(frozenset({"apply"})),
    # its file comes with the weights, never by a path in the YAML
    "sentencepiece.SentencePieceProcessor": Permission(frozenset({"new"}), only=frozenset()),
    # hooks would be functions of the file's choice
    PRETRAINER: Permission(
        frozenset({"new"}),
        only=frozenset({"collect_in", "loadables", "paths"}),
        without=frozenset({"collect_in"}),
    ),
    # the chunks of streaming recognizers
    "speechbrain.utils.filter_analysis.stack_filter_properties": Permission(frozenset({"apply"})),
    # encoders that others trained, which Hugging Face's transformers downloads
    **{f"{package}.{part}": _WAV2VEC2 for package in _HUGGINGFACE for part in _PARTS},
    **{f"{package}.whisper.Whisper": _WHISPER for package in _HUGGINGFACE},
}
"""Names of which a model may not use everything."""


def _names(text: str) -> dict[str, Permission]:
    return {name: Permission() for name in text.split()}


ALLOWED: Mapping[str, Permission] = {**_names(_OWN), **_names(_TORCH), **_names(_SPEECHBRAIN), **LIMITED}
