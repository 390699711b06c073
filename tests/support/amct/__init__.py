"""What the scripts of AMCT's manual leave to their user.

Index, each importing only what is above it:
    user             training, and running the fake-quant model
    resnet           ResNet where torchvision's is not installed
    lenet_names      the names that the LeNet script uses and does not define
    resnet101_names  the same of the ResNet-101 script
"""
