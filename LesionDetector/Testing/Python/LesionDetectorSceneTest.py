"""Runs inside 3D Slicer's own ctest: the scene that the module makes, in the application's scene and in an .mrb
file."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import slicer
from LesionDetectorLib import scene
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart, Lesion, Recist, ReviewStatus
from LesionDetectorLib.reading import Reading


class LesionDetectorSceneTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        self.volume = Volume(
            np.zeros((5, 40, 50), np.int16), (0.8, 0.9, 3.0), (10.0, -20.0, 30.0), np.eye(3), Path("ct.nrrd")
        )
        recist = Recist(((12.0, 15.0), (22.0, 15.0)), ((17.0, 12.0), (17.0, 18.0)), 8.0, 5.4)
        self.lesion = Lesion(BodyPart.LIVER, 0.87, 2, (1, 3), (7.0, 7.0, 27.0, 23.0), recist, ReviewStatus.ACCEPTED)

    def assert_lesion(self, found):
        self.assertEqual(found.edited(box=self.lesion.box, recist=self.lesion.recist), self.lesion)
        np.testing.assert_allclose(found.box, self.lesion.box, atol=1e-3)
        np.testing.assert_allclose(found.recist.long_axis, self.lesion.recist.long_axis, atol=1e-3)

    def test_lesions_shown_twice_replace_each_other(self):
        volume_node = scene.add_volume(slicer.mrmlScene, self.volume)
        for _ in range(2):
            scene.show_lesions(slicer.mrmlScene, volume_node, [self.lesion], self.volume.slice_number)
        (found,) = scene.read_lesions(slicer.mrmlScene, volume_node)
        self.assert_lesion(found)

    def test_a_written_scene_opens(self):
        with tempfile.TemporaryDirectory() as folder:
            scene.write_scene(self.volume, Reading.of(self.volume, [self.lesion]), Path(folder) / "scene.mrb")
            # not the application's: there the panel takes the lesions over
            loaded = scene.load_scene(Path(folder) / "scene.mrb")
        (found,) = scene.read_lesions(loaded)
        self.assert_lesion(found)


if __name__ == "__main__":
    unittest.main()
