"""The built-in kinds of scene, one file or folder each: `harness.scene.contract.Scene` says what one is."""
