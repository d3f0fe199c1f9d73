package nodeset

import "github.com/dbake/dbake/runtime/nodeset/dockerengine"

// Spec is one node of the request, or with Local set a number of them that are
// still to be started.
type Spec struct {
	// Name is unique among the nodes of a command.
	Name string `json:"name"`
	// Addr is the address as the BuildKit client takes it; "" when Local is set.
	Addr string `json:"addr,omitempty"`
	// Speed is relative to a node of speed 1; always > 0.
	Speed float64 `json:"speed"`
	// Slots is the number of steps the node runs at once; 0 = not known.
	Slots int `json:"slots,omitempty"`
	// Beside is the number of nodes, itself included, that share this machine; 0 =
	// the node is elsewhere.
	Beside int `json:"-"`
	// Platforms restricts what the node is used for, normalised; empty = all
	// that it offers.
	Platforms []string `json:"platforms,omitempty"`
	// Prefers are the platforms that its builder names for the node, normalised: for
	// those it is preferred to nodes that offer them without being named.
	Prefers []string `json:"prefers,omitempty"`
	// TLS is set when the connection uses TLS.
	TLS *TLS `json:"tls,omitempty"`
	// Container is the container that a builder of buildx keeps the node in; nil for
	// others. See [Spec.Boot].
	Container *dockerengine.Container `json:"-"`
	// Engine is the Docker engine whose own BuildKit the node is, or that runs its
	// Container; nil for others. [Resolve] sets it.
	Engine *dockerengine.Endpoint `json:"-"`
	// Local > 0 asks for that many daemons on this machine. Speed, Slots and
	// Platforms hold for each of them.
	Local int `json:"local,omitempty"`
	// Source is where the node was found: "--nodes" or "builder NAME".
	Source string `json:"source,omitempty"`
}

// TLS holds the file names and the server name of a TLS connection.
type TLS struct {
	// CACert is the file of the authority to trust; "" = those of the system.
	CACert string `json:"cacert,omitempty"`
	// Cert and Key are the client's certificate; both or none are set.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
	// ServerName is the name the certificate must bear; "" = the host of Addr.
	ServerName string `json:"servername,omitempty"`
}
