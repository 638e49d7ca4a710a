// What people do with @kubernetes/client-node, done to the cluster of the kubeconfig that the first argument names. One line a step;
// the first step that is not answered as it should be ends it with exit code 1.
import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import * as k8s from '@kubernetes/client-node';

const patience = 60_000; // for what happens by itself, in ms

const kc = new k8s.KubeConfig();
const namespace = 'client-node';
const labels = { app: 'web' };
const image = 'docker.io/mini/e2e:1';
const webPod = {
  terminationGracePeriodSeconds: 0,
  containers: [{ name: 'server', image, readinessProbe: { httpGet: { path: '/ready', port: 8080 }, periodSeconds: 1 } }],
};
let core, apps, custom, objects, podName;

// inTime is the promise, or an error after a minute.
async function inTime(promise, what) {
  const late = new AbortController();
  const timeout = sleep(patience, undefined, { signal: late.signal }).then(
    () => { throw new Error(`${what}: not within ${patience / 1000} s`); }, () => {});
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    late.abort();
  }
}

// fails wants an ApiException with the code, and returns what the server said.
async function fails(code, promise) {
  const err = await promise.then(() => assert.fail(`no error, want ${code}`), (e) => e);
  assert.ok(err instanceof k8s.ApiException, `${err}`);
  assert.equal(err.code, code, err.message);
  const status = typeof err.body === 'string' ? JSON.parse(err.body) : err.body;
  assert.equal(status.kind, 'Status');
  assert.equal(status.code, code);
  return status;
}

// until watches the path until an event is what is wanted, and returns its object.
async function until(path, query, wanted) {
  let request;
  const found = new Promise((resolve, reject) => {
    new k8s.Watch(kc).watch(path, query, (type, object) => { if (wanted(type, object)) resolve(object); }, (err) => {
      if (err && err.name !== 'AbortError') reject(err);
    }).then((r) => { request = r; }, reject);
  });
  try {
    return await inTime(found, `an event of ${path}`);
  } finally {
    request?.abort();
  }
}

// text collects a stream; has(part) is fulfilled when the part has come.
function text() {
  const stream = new PassThrough();
  let all = '', waiting = [];
  stream.on('data', (chunk) => {
    all += chunk;
    waiting = waiting.filter(({ part, resolve }) => !all.includes(part) || resolve());
  });
  const has = (part) => inTime(new Promise((resolve) => (all.includes(part) ? resolve() : waiting.push({ part, resolve }))), `"${part}" after "${all}"`);
  return { stream, has, get all() { return all; } };
}

// run executes a command in the pod and returns its outputs and the status at its end.
async function run(command, stdin = null, tty = false) {
  const out = text(), err = text();
  const status = await inTime(new Promise((resolve, reject) => {
    new k8s.Exec(kc).exec(namespace, podName, 'server', command, out.stream, err.stream, stdin, tty, resolve).then(
      (socket) => socket.on('error', reject), reject);
  }), `exec ${command}`);
  return { out: out.all, err: err.all, status };
}

const steps = {
  'load the kubeconfig': async () => {
    kc.loadFromFile(process.argv[2]);
    core = kc.makeApiClient(k8s.CoreV1Api);
    apps = kc.makeApiClient(k8s.AppsV1Api);
    custom = kc.makeApiClient(k8s.CustomObjectsApi);
    objects = k8s.KubernetesObjectApi.makeApiClient(kc);
  },
  'version and health': async () => {
    const version = await kc.makeApiClient(k8s.VersionApi).getCode();
    assert.match(version.gitVersion, /^v1\.36\./);
    assert.equal(await new k8s.Health(kc).readyz({}), true);
  },
  'discovery': async () => {
    const groups = await kc.makeApiClient(k8s.ApisApi).getAPIVersions();
    assert.ok(groups.groups.some((g) => g.name === 'apps' && g.preferredVersion.version === 'v1'));
    const resources = await apps.getAPIResources();
    assert.ok(resources.resources.some((r) => r.name === 'deployments/scale' && r.kind === 'Scale'));
  },
  'list nodes': async () => {
    const nodes = await core.listNode();
    assert.equal(nodes.items.length, 2);
    assert.ok(nodes.items[0].metadata.creationTimestamp instanceof Date);
  },
  'create a namespace and wait for its service account': async () => {
    await core.createNamespace({ body: { metadata: { name: namespace } } });
    await until(`/api/v1/namespaces/${namespace}/serviceaccounts`, {}, (type, o) => o.metadata.name === 'default');
  },
  'create, read and replace a config map': async () => {
    const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'a' }, data: { k: 'v' } } });
    assert.ok(made.metadata.uid && made.metadata.resourceVersion);
    const read = await core.readNamespacedConfigMap({ namespace, name: 'a' });
    assert.deepEqual(read.data, { k: 'v' });
    const replaced = await core.replaceNamespacedConfigMap({ namespace, name: 'a', body: { ...read, data: { k: 'w' } } });
    assert.deepEqual(replaced.data, { k: 'w' });
    const stale = await fails(409, core.replaceNamespacedConfigMap({ namespace, name: 'a', body: read }));
    assert.equal(stale.reason, 'Conflict');
  },
  'patch it in three ways': async () => {
    const patch = (strategy, body) => core.patchNamespacedConfigMap({ namespace, name: 'a', body }, k8s.setHeaderOptions('Content-Type', strategy));
    assert.deepEqual((await patch(k8s.PatchStrategy.JsonPatch, [{ op: 'replace', path: '/data/k', value: 'x' }])).data, { k: 'x' });
    assert.deepEqual((await patch(k8s.PatchStrategy.MergePatch, { data: { k: null, m: '1' } })).data, { m: '1' });
    assert.deepEqual((await patch(k8s.PatchStrategy.StrategicMergePatch, { data: { s: '2' } })).data, { m: '1', s: '2' });
  },
  'server-side apply, its conflicts and force': async () => {
    const apply = (fieldManager, k, force) => core.patchNamespacedConfigMap(
      { namespace, name: 'applied', fieldManager, force, body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied' }, data: { k } } },
      k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.ServerSideApply));
    const made = await apply('first', 'v');
    assert.deepEqual(made.metadata.managedFields.map((f) => [f.manager, f.operation]), [['first', 'Apply']]);
    const conflict = await fails(409, apply('second', 'w'));
    assert.match(conflict.message, /conflict with "first": \.data\.k/);
    assert.equal((await apply('second', 'w', true)).data.k, 'w');
  },
  'dry run': async () => {
    await core.createNamespacedConfigMap({ namespace, dryRun: 'All', body: { metadata: { name: 'dry' } } });
    await fails(404, core.readNamespacedConfigMap({ namespace, name: 'dry' }));
  },
  'errors are ApiExceptions': async () => {
    const missing = await fails(404, core.readNamespacedPod({ namespace, name: 'nobody' }));
    assert.equal(missing.message, 'pods "nobody" not found');
    assert.equal((await fails(409, core.createNamespace({ body: { metadata: { name: namespace } } }))).reason, 'AlreadyExists');
    const invalid = await fails(422, core.createNamespacedPod({ namespace, body: { metadata: { name: 'p' }, spec: { containers: [] } } }));
    assert.deepEqual(invalid.details.causes.map((c) => c.field), ['spec.containers']);
    const nowhere = await fails(404, core.createNamespacedConfigMap({ namespace: 'nowhere', body: { metadata: { name: 'a' } } }));
    assert.equal(nowhere.message, 'namespaces "nowhere" not found');
  },
  'list in chunks, by label and field': async () => {
    const names = [];
    for (const n of ['l1', 'l2', 'l3']) {
      await core.createNamespacedSecret({ namespace, body: { metadata: { name: n, labels: { part: 'list' } }, stringData: { n } } });
    }
    let _continue;
    do {
      const page = await core.listNamespacedSecret({ namespace, labelSelector: 'part=list', limit: 2, _continue });
      names.push(...page.items.map((s) => s.metadata.name));
      _continue = page.metadata._continue;
    } while (_continue);
    assert.deepEqual(names, ['l1', 'l2', 'l3']);
    const one = await core.listNamespacedSecret({ namespace, fieldSelector: 'metadata.name=l2' });
    assert.deepEqual(one.items.map((s) => Buffer.from(s.data.n, 'base64').toString()), ['l2']);
    await core.deleteCollectionNamespacedSecret({ namespace, labelSelector: 'part=list' });
    assert.equal((await core.listNamespacedSecret({ namespace, labelSelector: 'part=list' })).items.length, 0);
  },
  'watch': async () => {
    const { metadata } = await core.listNamespacedConfigMap({ namespace });
    const added = until(`/api/v1/namespaces/${namespace}/configmaps`, { resourceVersion: metadata.resourceVersion, allowWatchBookmarks: true },
      (type, o) => type === 'ADDED' && o.metadata.name === 'watched');
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'watched' }, data: { k: 'v' } } });
    assert.deepEqual((await added).data, { k: 'v' });
  },
  'informer': async () => {
    const informer = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/configmaps`, () => core.listNamespacedConfigMap({ namespace, labelSelector: 'by=informer' }), 'by=informer');
    const seen = text();
    for (const verb of ['add', 'update', 'delete']) informer.on(verb, (o) => seen.stream.write(`${verb} ${o.metadata.name} ${o.data?.k}\n`));
    informer.on('error', (err) => seen.stream.write(`error ${err}\n`));
    const body = (name, k) => ({ metadata: { name, labels: { by: 'informer' } }, data: { k } });
    await core.createNamespacedConfigMap({ namespace, body: body('before', '1') });
    await informer.start();
    await seen.has('add before 1\n');
    await core.createNamespacedConfigMap({ namespace, body: body('after', '1') });
    await seen.has('add after 1\n');
    await core.replaceNamespacedConfigMap({ namespace, name: 'after', body: body('after', '2') });
    await seen.has('update after 2\n');
    await core.deleteNamespacedConfigMap({ namespace, name: 'after' });
    await seen.has('delete after 2\n');
    assert.deepEqual(informer.list(namespace).map((o) => o.metadata.name), ['before']);
    assert.ok(!seen.all.includes('error'), seen.all); // its stop is one to it
    await informer.stop();
  },
  'a deployment is rolled out': async () => {
    await apps.createNamespacedDeployment({ namespace, body: {
      metadata: { name: 'web', labels }, spec: { replicas: 1, selector: { matchLabels: labels }, template: { metadata: { labels }, spec: webPod } },
    } });
    await until(`/apis/apps/v1/namespaces/${namespace}/deployments`, {}, (type, d) => d.status?.availableReplicas === 1);
    [podName] = (await core.listNamespacedPod({ namespace, labelSelector: 'app=web' })).items.map((p) => p.metadata.name);
  },
  'scale it': async () => {
    const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'web' });
    assert.equal(scale.spec.replicas, 1);
    await apps.replaceNamespacedDeploymentScale({ namespace, name: 'web', body: { ...scale, spec: { replicas: 2 } } });
    await until(`/apis/apps/v1/namespaces/${namespace}/deployments`, {}, (type, d) => d.status?.availableReplicas === 2);
  },
  'read and follow a log': async () => {
    assert.match(await core.readNamespacedPodLog({ namespace, name: podName }), /^testserver /);
    const lines = text();
    const request = await new k8s.Log(kc).log(namespace, podName, 'server', lines.stream, { follow: true });
    await lines.has(`testserver ${podName}`);
    await run(['sh', '-c', 'echo written later > /proc/1/fd/1']);
    await lines.has('written later\n');
    request.abort();
  },
  'exec over a WebSocket': async () => {
    const hi = await run(['sh', '-c', 'echo hi; echo there >&2']);
    assert.deepEqual([hi.out, hi.err, hi.status.status], ['hi\n', 'there\n', 'Success']);
    const cat = await run(['sh', '-c', 'read line; echo "got $line"'], Readable.from(['from here\n']));
    assert.equal(cat.out, 'got from here\n');
    const failed = await run(['sh', '-c', 'exit 7']);
    assert.equal(failed.status.status, 'Failure');
    assert.deepEqual(failed.status.details.causes, [{ reason: 'ExitCode', message: '7' }]);
    assert.equal((await run(['sh', '-c', 'test -t 1 && echo terminal'], null, true)).out, 'terminal\r\n');
  },
  'forward a port': async () => {
    const answer = text(), problem = text();
    const input = new PassThrough();
    const socket = await new k8s.PortForward(kc).portForward(namespace, podName, [8080], answer.stream, problem.stream, input);
    input.write('GET / HTTP/1.1\r\nHost: pod\r\n\r\n');
    await answer.has(`${podName} 1`);
    assert.equal(problem.all, '');
    socket.close();
  },
  'evict a pod': async () => {
    const { metadata } = await core.listNamespacedPod({ namespace });
    const gone = until(`/api/v1/namespaces/${namespace}/pods`, { resourceVersion: metadata.resourceVersion }, (type, p) => type === 'DELETED' && p.metadata.name === podName);
    await core.createNamespacedPodEviction({ namespace, name: podName, body: { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: podName, namespace } } });
    await gone;
  },
  'define a custom resource': async () => {
    const definitions = kc.makeApiClient(k8s.ApiextensionsV1Api);
    await definitions.createCustomResourceDefinition({ body: {
      metadata: { name: 'boxes.node.example.org' },
      spec: {
        group: 'node.example.org', scope: 'Namespaced', names: { plural: 'boxes', singular: 'box', kind: 'Box' },
        versions: [{ name: 'v1', served: true, storage: true, subresources: { status: {}, scale: { specReplicasPath: '.spec.size', statusReplicasPath: '.status.size' } },
          schema: { openAPIV3Schema: { type: 'object', properties: {
            spec: { type: 'object', properties: { size: { type: 'integer', _default: 1, maximum: 9 } } }, status: { type: 'object', properties: { size: { type: 'integer' } } } } } } }],
      },
    } });
    await until('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', { fieldSelector: 'metadata.name=boxes.node.example.org' },
      (type, d) => d.status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True'));
  },
  'custom objects': async () => {
    const boxes = { group: 'node.example.org', version: 'v1', namespace, plural: 'boxes' }, one = { ...boxes, name: 'one' };
    const body = (spec) => ({ apiVersion: 'node.example.org/v1', kind: 'Box', metadata: { name: 'one' }, spec });
    assert.equal((await custom.createNamespacedCustomObject({ ...boxes, body: body({}) })).spec.size, 1);
    const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
    assert.equal((await custom.patchNamespacedCustomObject({ ...one, body: { spec: { size: 2 } } }, merge)).spec.size, 2);
    const status = await custom.patchNamespacedCustomObjectStatus({ ...one, body: { status: { size: 5 }, spec: { size: 7 } } }, merge);
    assert.deepEqual([status.spec.size, status.status.size], [2, 5]);
    const scale = await custom.getNamespacedCustomObjectScale(one);
    assert.deepEqual([scale.kind, scale.spec.replicas, scale.status.replicas], ['Scale', 2, 5]);
    await fails(422, custom.patchNamespacedCustomObject({ ...one, body: { spec: { size: 10 } } }, merge));
    const applied = await custom.patchNamespacedCustomObject({ ...one, fieldManager: 'node', force: true, body: body({ size: 3 }) },
      k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.ServerSideApply));
    assert.equal(applied.spec.size, 3);
    assert.equal((await custom.listNamespacedCustomObject(boxes)).items.length, 1);
    assert.equal((await custom.deleteNamespacedCustomObject(one)).status, 'Success');
    await fails(404, custom.getNamespacedCustomObject(one));
  },
  'objects of any kind, found by discovery': async () => {
    const box = { apiVersion: 'node.example.org/v1', kind: 'Box', metadata: { name: 'two', namespace }, spec: { size: 4 } };
    assert.equal((await objects.create(box)).spec.size, 4);
    const role = { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name: 'r', namespace }, rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['get'] }] };
    const applied = await objects.patch(role, undefined, undefined, 'node', true, k8s.PatchStrategy.ServerSideApply);
    assert.deepEqual(applied.rules[0].verbs, ['get']);
    assert.equal((await objects.list('node.example.org/v1', 'Box', namespace)).items.length, 1);
    assert.equal((await objects.delete(box)).status, 'Success');
  },
  'who may do what': async () => {
    const review = await kc.makeApiClient(k8s.AuthorizationV1Api).createSubjectAccessReview({ body: {
      spec: { user: 'system:serviceaccount:client-node:default', resourceAttributes: { namespace, verb: 'get', resource: 'pods' } } } });
    assert.equal(review.status.allowed, false);
    const token = await core.createNamespacedServiceAccountToken({ namespace, name: 'default', body: { spec: { audiences: [], expirationSeconds: 600 } } });
    const other = new k8s.KubeConfig();
    other.loadFromOptions({ clusters: kc.clusters, users: [{ name: 'bot', token: token.status.token }], contexts: [{ name: 'bot', cluster: kc.clusters[0].name, user: 'bot' }], currentContext: 'bot' });
    const forbidden = await fails(403, other.makeApiClient(k8s.CoreV1Api).listNamespacedPod({ namespace }));
    assert.match(forbidden.message, /^pods is forbidden: User "system:serviceaccount:client-node:default" cannot list resource "pods"/);
    other.users[0].token = 'nonsense';
    await assert.rejects(other.makeApiClient(k8s.CoreV1Api).listNode(), (err) => err instanceof k8s.ApiException && err.code === 401);
  },
  'delete everything': async () => {
    await kc.makeApiClient(k8s.ApiextensionsV1Api).deleteCustomResourceDefinition({ name: 'boxes.node.example.org' });
    const { metadata } = await core.listNamespace();
    const gone = until('/api/v1/namespaces', { fieldSelector: `metadata.name=${namespace}`, resourceVersion: metadata.resourceVersion }, (type) => type === 'DELETED');
    await core.deleteNamespace({ name: namespace });
    await gone;
  },
};

const begin = Date.now();
for (const [name, step] of Object.entries(steps)) {
  const since = Date.now();
  try {
    await step();
  } catch (err) {
    console.log(`FAIL ${name}`);
    console.log(err);
    process.exit(1);
  }
  console.log(`ok   ${name} (${Date.now() - since} ms)`);
}
console.log(`${Object.keys(steps).length} steps in ${((Date.now() - begin) / 1000).toFixed(1)} s, node ${process.version}`);
process.exit(0);
