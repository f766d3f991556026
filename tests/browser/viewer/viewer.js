// Shows ?file=… with three.js's own loader from a camera of the harness: ?azimuth, ?elevation, ?distance and ?fov.
// The page says what it loaded in `window.loaded`, once it is drawn.
import * as THREE from "three";
import { GLTFLoader } from "./node_modules/three/examples/jsm/loaders/GLTFLoader.js";
import { OBJLoader } from "./node_modules/three/examples/jsm/loaders/OBJLoader.js";
import { PLYLoader } from "./node_modules/three/examples/jsm/loaders/PLYLoader.js";

const asked = new URLSearchParams(location.search);
const [azimuth, elevation, distance, fov] = ["azimuth", "elevation", "distance", "fov"].map((name) =>
  Number(asked.get(name)),
);
const file = asked.get("file");
const kind = file.split(".").at(-1);

async function load() {
  if (kind === "glb") return (await new GLTFLoader().loadAsync(file)).scene;
  const flat = new THREE.MeshBasicMaterial({ vertexColors: true });
  if (kind === "ply") return new THREE.Mesh(await new PLYLoader().loadAsync(file), flat);
  const object = await new OBJLoader().loadAsync(file);
  object.traverse((part) => part.isMesh && (part.material = flat));
  return object;
}

const scene = new THREE.Scene();
scene.background = new THREE.Color(0xff00ff);
const object = await load();
scene.add(object);

const camera = new THREE.PerspectiveCamera(fov, 1, 0.1, 100);
const [az, el] = [azimuth, elevation].map(THREE.MathUtils.degToRad);
const world = [Math.cos(el) * Math.cos(az), Math.cos(el) * Math.sin(az), Math.sin(el)].map((v) => v * distance);
if (kind === "ply") {
  camera.up.set(0, 0, 1);
  camera.position.set(...world);
} else {
  camera.position.set(world[1], world[2], world[0]);
}
camera.lookAt(0, 0, 0);

const renderer = new THREE.WebGLRenderer({ preserveDrawingBuffer: true });
renderer.setSize(256, 256, false);
document.body.append(renderer.domElement);
renderer.render(scene, camera);

const meshes = [];
object.traverse((part) => part.isMesh && meshes.push(part));
window.loaded = meshes.map(({ geometry, material }) => ({
  vertices: geometry.attributes.position.count,
  corners: geometry.index ? geometry.index.count : geometry.attributes.position.count,
  colours: Boolean(geometry.attributes.color),
  normals: Boolean(geometry.attributes.normal),
  material: material.type,
}));
window.picture = renderer.domElement.toDataURL("image/png");
