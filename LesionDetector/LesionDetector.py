"""The Slicer module: click Detect lesions, review what is found, report it. With its room `panel` it alone knows Qt."""

import slicer
from LesionDetectorLib.panel.logic import LesionDetectorLogic
from LesionDetectorLib.panel.parameters import LesionDetectorParameterNode
from LesionDetectorLib.panel.self_test import LesionDetectorTest
from LesionDetectorLib.panel.widget import LesionDetectorWidget
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
)

# Slicer finds the classes of a module by their names in its file.
__all__ = [
    "LesionDetector",
    "LesionDetectorLogic",
    "LesionDetectorParameterNode",
    "LesionDetectorTest",
    "LesionDetectorWidget",
]


class LesionDetector(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Lesion Detector")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        parent.dependencies = []
        parent.contributors = ["LesionDetectorExtension developers (SlicerLesionDetector)"]
        parent.helpText = _(
            "Finds lesions on a CT, labels them with one of eight body parts, measures their RECIST axes, and lets you "
            'review and report them. Research use only. Not a medical device. <a href="{url}">Documentation</a>'
        ).format(url="https://github.com/SlicerLesionDetector/SlicerLesionDetectorExtension#readme")
        parent.acknowledgementText = _(
            "Labels and the layout of training data follow DeepLesion (Yan et al., J. Med. Imaging 2018). "
            "VFNet: Zhang et al., CVPR 2021. Response criteria: RECIST 1.1, Eisenhauer et al., 2009."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer a CT with liver tumours in Slicer's Sample Data module; it is downloaded when the user asks for it.

    Slicer has a thumbnail of it, which it finds by the name of the node.
    """
    import SampleData

    digest = "e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e"
    SampleData.SampleDataLogic.registerCustomSampleDataCategory("LesionDetector", title=_("Lesion Detector"))
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="LesionDetector",
        sampleName="CTLiver",
        uris=slicer.util.TESTING_DATA_URL + "SHA256/" + digest,
        fileNames="CTLiver.nrrd",
        nodeNames="CTLiver",
        checksums="SHA256:" + digest,
    )
