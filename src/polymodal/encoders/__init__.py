"""Encoders: from the input of one modality to its features."""

from polymodal.encoders.base import Encoder, LayeredEncoder, State, linear_heads
from polymodal.encoders.cnn import EfficientNet, ResNet, ResNet18
from polymodal.encoders.conformer import ConformerEncoder
from polymodal.encoders.imagebind_audio import ImageBindAudio
from polymodal.encoders.mmt import Expert
from polymodal.encoders.sequence import SequenceTransformer
from polymodal.encoders.small import MLP, FrameCNN, ImageCNN, SpectrogramCNN, TextBag
from polymodal.encoders.speech import SpeechConformer, Wav2Vec2
from polymodal.encoders.text import Bert, Deberta
from polymodal.encoders.vit import ViT

__all__ = [
    "MLP",
    "Bert",
    "ConformerEncoder",
    "Deberta",
    "EfficientNet",
    "Encoder",
    "Expert",
    "FrameCNN",
    "ImageBindAudio",
    "ImageCNN",
    "LayeredEncoder",
    "ResNet",
    "ResNet18",
    "SequenceTransformer",
    "SpectrogramCNN",
    "SpeechConformer",
    "State",
    "TextBag",
    "ViT",
    "Wav2Vec2",
    "linear_heads",
]
