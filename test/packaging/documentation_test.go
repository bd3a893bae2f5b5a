package packaging

// place is where a command of a page is run.
type place int

const (
	here    place = iota // by TestDocumentedCommands, with a berthd of this build
	inGuest              // by TestGuest…, where systemd and apt are
	nowhere
)

// documented is a command of a page.
type documented struct {
	page, command string // as the page has it, without its comment
	run           string // what is run for it; empty: the command, with names that there are
	says          string // an expression that what it prints must match
	where         place
	why           string // of those that are not run here
}

const (
	needsSystemd = "it needs systemd"
	needsApt     = "it changes the packages of the machine"
)

// documentation are the commands of all pages, in an order in which they can be run.
var documentation = []documented{
	{page: "README.md", command: "make run", run: "BERTH_RUN_ONCE=1 make run", says: `(?s)pod .*log .*Hello, I am process.*IP .*answer`},
	{page: "README.md", command: "make test", where: nowhere, why: "this test is a part of it"},
	{page: "README.md", command: "make install"},
	{page: "README.md", command: "systemctl enable --now berthd", where: inGuest, why: needsSystemd},
	{page: "README.md", command: "kubelet --container-runtime-endpoint=unix:///run/berth/berth.sock …", where: inGuest, why: "a kubelet is not at hand everywhere"},
	{page: "operations.md", command: "berthd --print-config", says: `(?m)^root = "/var/lib/berth"$`},
	{page: "migrate.md", command: "berth image load images.tar", says: imageName},

	{page: "README.md", command: "berth check", says: `(?m)^ok +socket +a server answers`},
	{page: "README.md", command: "crictl --runtime-endpoint unix:///run/berth/berth.sock info", says: `"type": "RuntimeReady"`},
	{page: "README.md", command: "berth explain POD|CONTAINER", says: `process`},
	{page: "README.md", command: "berth audit", says: `\S`},
	{page: "README.md", command: "Most likely: process: the kernel killed it for memory, the limit is 64 MiB: raise the limit or make it use less",
		run: "berth explain KILLED", says: `(?m)^Most likely: process: the kernel killed it for memory, the limit is 64 MiB: raise the limit or make it use less$`},

	{page: "operations.md", command: "systemctl reload berthd", where: inGuest, why: needsSystemd},
	{page: "operations.md", command: "apt-get install ./berth_VERSION_amd64.deb", where: inGuest, why: needsApt},
	{page: "operations.md", command: "berth version", says: `(?m)^berthd +\S+, pid \d+$(?s:.*)^berth-shim +\S+, pid \d+, pods: `},
	{page: "operations.md", command: "apt-get install --allow-downgrades ./berth_OLDER_amd64.deb", where: inGuest, why: needsApt},
	{page: "operations.md", command: "BERTH_PODS=stop apt-get remove berth", where: inGuest, why: needsApt},
	{page: "operations.md", command: "apt-get purge berth", where: inGuest, why: needsApt},
	{page: "operations.md", command: "berth image list", says: imageName},
	{page: "operations.md", command: "berth image check --repair", says: `\S`},
	{page: "operations.md", command: "berth image export FILE REF..."},
	{page: "operations.md", command: "berth check --leaks"},
	{page: "operations.md", command: "systemctl stop berthd", where: inGuest, why: needsSystemd},
	{page: "operations.md", command: "berth check --leaks --repair", where: nowhere, why: "a running berthd refuses it; tests of cmd/berth/leaks repair"},
	{page: "operations.md", command: "berth wipe", where: nowhere, why: "a running berthd refuses it; TestWipe of test/crash runs it"},
	{page: "operations.md", command: "berth explain POD", says: `process`},
	{page: "operations.md", command: "berth audit", says: `\S`},
	{page: "operations.md", command: "kill -USR1 $(pidof berthd)", run: "kill -USR1 $(pidof berthd) && timeout 20 sed -n '/goroutine [0-9]* \\[/q' <(tail -n +1 -F berthd.log)"},

	{page: "migrate.md", command: "kubectl drain NODE --ignore-daemonsets", where: nowhere, why: "it needs a cluster"},
	{page: "migrate.md", command: "systemctl stop kubelet", where: inGuest, why: needsSystemd},
	{page: "migrate.md", command: "crictl --runtime-endpoint unix:///run/containerd/containerd.sock rmp -af", says: `(?i)removed sandbox`},
	{page: "migrate.md", command: "systemctl disable --now containerd", where: inGuest, why: needsSystemd},
	{page: "migrate.md", command: "apt-get install ./berth_VERSION_amd64.deb", where: inGuest, why: needsApt},
	{page: "migrate.md", command: "berth check", says: `(?m)^ok +socket +a server answers`},
	{page: "migrate.md", command: "ctr -n k8s.io images export images.tar IMAGE...", where: nowhere, why: "containerd is not at hand; what it writes is an OCI archive, as test/registry makes them"},
}

// imageName is what the archive of `make run` calls its image.
const imageName = "berth.local/demo:latest"
