package nodeset

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
)

// SourceFlag is the Source of nodes that were given by --nodes.
const SourceFlag = "--nodes"

const (
	localName    = "local"
	dockerScheme = "docker"
	// maxLocal catches local:1234, where a port was meant.
	maxLocal = 64
	maxSlots = 1024
)

// schemes are the kinds of address, each with an example for messages.
var schemes = []struct{ name, example string }{
	{"tcp", "tcp://10.0.0.5:1234"},
	{"unix", "unix:///run/buildkit/buildkitd.sock"},
	{"docker", "docker://"},
	{"npipe", "npipe:////./pipe/buildkitd"},
	{"ssh", "ssh://user@host"},
	{"docker-container", "docker-container://NAME"},
	{"kube-pod", "kube-pod://POD?namespace=NS"},
}

// options are the keys that may follow an address.
var options = []string{"name", "speed", "slots", "platforms", "cacert", "cert", "key", "servername"}

// NodeError is an error in one node of a --nodes value.
type NodeError struct {
	Value string // the node as given
	Err   error
}

func (e *NodeError) Error() string { return fmt.Sprintf("--nodes %s: %v", e.Value, e.Err) }

// Unwrap returns the cause.
func (e *NodeError) Unwrap() error { return e.Err }

// Parse returns the nodes of the values of --nodes, in their order. The syntax is
// in the package comment. All nodes in error are reported, each as a [*NodeError].
func Parse(values []string) ([]Spec, error) {
	var specs []Spec
	var errs []error
	for _, value := range values {
		for word := range strings.FieldsSeq(value) {
			for _, item := range splitNodes(word) {
				s, err := parseNode(item)
				if err != nil {
					errs = append(errs, &NodeError{Value: item, Err: err})
					continue
				}
				specs = append(specs, s)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(specs) == 0 {
		return nil, fmt.Errorf("--nodes names no node; write for example --nodes %s or --nodes local:2", schemes[0].example)
	}
	if err := checkDistinct(specs); err != nil {
		return nil, err
	}
	nameNodes(specs)
	return specs, nil
}

// splitNodes cuts a word before every comma that an address follows.
func splitNodes(word string) []string {
	var items []string
	for field := range strings.SplitSeq(word, ",") {
		if len(items) > 0 && !startsNode(field) {
			items[len(items)-1] += "," + field
			continue
		}
		items = append(items, field)
	}
	return items
}

// startsNode reports whether field is [NAME=]ADDRESS rather than an option.
func startsNode(field string) bool {
	name, addr := cutName(field)
	if slices.Contains(options, name) {
		return false
	}
	scheme, _, ok := strings.Cut(addr, ":")
	return ok && (scheme == localName || isScheme(scheme))
}

// cutName splits NAME=ADDRESS. An equals sign further on, as in
// kube-pod://p?namespace=x, belongs to the address.
func cutName(field string) (name, addr string) {
	name, addr, ok := strings.Cut(field, "=")
	if !ok || strings.ContainsAny(name, ":/") {
		return "", field
	}
	return name, addr
}

func isScheme(s string) bool {
	for _, sc := range schemes {
		if sc.name == s {
			return true
		}
	}
	return false
}

func parseNode(item string) (Spec, error) {
	s := Spec{Speed: 1, Source: SourceFlag}
	head, rest, more := strings.Cut(item, ",")
	name, addr := cutName(head)
	if slices.Contains(options, name) && !looksLikeAddr(addr) {
		return s, fmt.Errorf("the address must come before the options, as in %s,%s", schemes[0].example, head)
	}
	if strings.Contains(head, "=") && name == "" && strings.HasPrefix(head, "=") {
		return s, errors.New("the name before = is empty; write NAME=ADDRESS or only ADDRESS")
	}
	if err := s.setName(name); err != nil {
		return s, err
	}
	if err := s.setAddr(addr); err != nil {
		return s, err
	}
	if more {
		seen := map[string]bool{}
		for field := range strings.SplitSeq(rest, ",") {
			if err := s.setOption(field, seen); err != nil {
				return s, err
			}
		}
	}
	if s.TLS != nil {
		if err := s.checkTLS(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func looksLikeAddr(s string) bool {
	return strings.Contains(s, "://") || s == localName || strings.HasPrefix(s, localName+":")
}

func (s *Spec) setName(name string) error {
	if name == "" {
		return nil
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", r)) {
			return fmt.Errorf("%q cannot name a node; use letters, digits, '.', '_' and '-', as in gpu-1=%s", name, schemes[0].example)
		}
	}
	s.Name = name
	return nil
}

// setAddr checks addr as far as that is possible without dialling.
func (s *Spec) setAddr(addr string) error {
	if addr == localName || strings.HasPrefix(addr, localName+":") {
		n, err := parseLocal(addr)
		s.Local = n
		return err
	}
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return noScheme(addr)
	}
	if !isScheme(scheme) {
		return fmt.Errorf("unknown kind of address %q; known are %s", scheme+"://", schemeList())
	}
	u, err := url.Parse(addr)
	if err != nil {
		return fmt.Errorf("not an address: %w", errors.Unwrap(err))
	}
	switch scheme {
	case "tcp":
		if err := checkTCP(u); err != nil {
			return err
		}
		addr = "tcp://" + u.Host
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return fmt.Errorf("the path of the socket must be absolute; write unix:///%s if that is its place", rest)
		}
	case "npipe":
		if rest == "" {
			return errors.New("the name of the pipe is missing; write " + example(scheme))
		}
	case dockerScheme:
		if u.Path != "" && u.Path != "/" || u.User != nil || u.Port() != "" {
			return errors.New("docker:// is followed by nothing, for the engine that docker uses, or by the name of a docker context")
		}
	default:
		if u.Hostname() == "" {
			return fmt.Errorf("nothing is named after %s://; write %s", scheme, example(scheme))
		}
		if strings.HasPrefix(u.Hostname(), "-") {
			// It would reach ssh, docker or kubectl as an option.
			return fmt.Errorf("%q cannot be a host, container or pod", u.Hostname())
		}
	}
	s.Addr = addr
	return nil
}

// checkTCP checks that a tcp address is a host and a port, and nothing else.
func checkTCP(u *url.URL) error {
	if u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("a tcp address is a host and a port, as in %s", schemes[0].example)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("the address has no port; write tcp://%s:1234 if buildkitd listens on 1234", hostOr(u, "HOST"))
	}
	if p, err := strconv.Atoi(port); err != nil || p < 1 || p > math.MaxUint16 {
		return fmt.Errorf("%s is not a port; ports are 1 to %d", port, math.MaxUint16)
	}
	return nil
}

// noScheme guesses the meaning of an address without scheme.
func noScheme(addr string) error {
	switch {
	case addr == "":
		return fmt.Errorf("the address is missing; write for example %s", schemes[0].example)
	case strings.HasPrefix(addr, "/"):
		return fmt.Errorf("the address has no scheme; for a socket write unix://%s", addr)
	case strings.Contains(addr, ":"):
		return fmt.Errorf("the address has no scheme; for a daemon on the network write tcp://%s", addr)
	default:
		return fmt.Errorf("%q is not an address; write for example tcp://%s:1234, or --builder %s for a builder of buildx", addr, addr, addr)
	}
}

func hostOr(u *url.URL, def string) string {
	h := u.Hostname()
	switch {
	case h == "":
		return def
	case strings.Contains(h, ":"):
		return "[" + h + "]"
	}
	return h
}

func example(scheme string) string {
	for _, sc := range schemes {
		if sc.name == scheme {
			return sc.example
		}
	}
	return schemes[0].example
}

func schemeList() string {
	names := []string{localName + ":N"}
	for _, sc := range schemes {
		names = append(names, sc.name+"://")
	}
	return strings.Join(names, ", ")
}

func parseLocal(addr string) (int, error) {
	count, ok := strings.CutPrefix(addr, localName+":")
	if !ok {
		return 1, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxLocal {
		return 0, fmt.Errorf("%q is not a number of local nodes; write local:N with N from 1 to %d", count, maxLocal)
	}
	return n, nil
}

func (s *Spec) setOption(field string, seen map[string]bool) error {
	key, value, ok := strings.Cut(field, "=")
	if !slices.Contains(options, key) {
		if field == "" {
			return errors.New("there is nothing between two commas, or after the last")
		}
		return fmt.Errorf("unknown option %q; known are %s", key, strings.Join(options, ", "))
	}
	if !ok || value == "" {
		return fmt.Errorf("option %s has no value; write %s=…", key, key)
	}
	if seen[key] && key != "platforms" {
		return fmt.Errorf("option %s is given twice", key)
	}
	seen[key] = true
	switch key {
	case "name":
		if s.Name != "" {
			return fmt.Errorf("the node is named twice, %s and %s", s.Name, value)
		}
		return s.setName(value)
	case "speed":
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f > 0) || math.IsInf(f, 0) {
			return fmt.Errorf("speed=%s: speed is a number above 0, relative to a node of speed 1, as in speed=1.5", value)
		}
		s.Speed = f
	case "slots":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxSlots {
			return fmt.Errorf("slots=%s: slots is the number of steps to run at once, 1 to %d", value, maxSlots)
		}
		s.Slots = n
	case "platforms":
		return s.addPlatforms(value)
	default:
		s.setTLS(key, value)
	}
	return nil
}

func (s *Spec) addPlatforms(list string) error {
	for item := range strings.SplitSeq(list, ";") {
		p, err := platforms.Parse(item)
		if err != nil {
			return fmt.Errorf("platforms=%s: %w; separate platforms by semicolons, as in platforms=linux/amd64;linux/arm64", list, err)
		}
		if f := platforms.FormatAll(platforms.Normalize(p)); !slices.Contains(s.Platforms, f) {
			s.Platforms = append(s.Platforms, f)
		}
	}
	return nil
}

func (s *Spec) setTLS(key, value string) {
	if s.TLS == nil {
		s.TLS = &TLS{}
	}
	switch key {
	case "cacert":
		s.TLS.CACert = value
	case "cert":
		s.TLS.Cert = value
	case "key":
		s.TLS.Key = value
	case "servername":
		s.TLS.ServerName = value
	}
}

func (s *Spec) checkTLS() error {
	switch {
	case !strings.HasPrefix(s.Addr, "tcp://"):
		return errors.New("cacert, cert, key and servername are for tcp:// addresses only")
	case s.TLS.Cert != "" && s.TLS.Key == "":
		return errors.New("cert is given without key; a client certificate needs both")
	case s.TLS.Key != "" && s.TLS.Cert == "":
		return errors.New("key is given without cert; a client certificate needs both")
	}
	return nil
}

// checkDistinct refuses one daemon under two names: its load would be counted
// twice.
func checkDistinct(specs []Spec) error {
	names, addrs := map[string]bool{}, map[string]bool{}
	local := false
	for _, s := range specs {
		switch {
		case s.Name != "" && names[s.Name]:
			return &NodeError{Value: s.String(), Err: fmt.Errorf("another node has the name %s already", s.Name)}
		case s.Local > 0 && local:
			return &NodeError{Value: s.String(), Err: errors.New("local nodes are asked for twice; add the numbers up in one local:N")}
		case s.Addr != "" && addrs[strings.ToLower(s.Addr)]:
			return &NodeError{Value: s.String(), Err: errors.New("another node has this address already; give a daemon's capacity by slots=N")}
		}
		names[s.Name] = true
		addrs[strings.ToLower(s.Addr)] = true
		local = local || s.Local > 0
	}
	return nil
}

// String returns the node as it may be given to --nodes, without its options.
func (s Spec) String() string {
	addr := s.Addr
	if s.Local > 0 {
		addr = fmt.Sprintf("%s:%d", localName, s.Local)
	}
	if s.Name == "" {
		return addr
	}
	return s.Name + "=" + addr
}

// nameNodes names the nodes that have no name yet.
func nameNodes(specs []Spec) {
	taken := map[string]bool{}
	for _, s := range specs {
		taken[s.Name] = true
	}
	for i := range specs {
		s := &specs[i]
		if s.Name != "" {
			continue
		}
		for _, name := range nameCandidates(*s) {
			if name != "" && !taken[name] {
				s.Name = name
				break
			}
		}
		for n := i + 1; s.Name == ""; n++ {
			if name := "n" + strconv.Itoa(n); !taken[name] {
				s.Name = name
			}
		}
		taken[s.Name] = true
	}
}

// nameCandidates are names that remind the user of the address, best first. An IP
// address and "localhost" are none: they are long or say nothing.
func nameCandidates(s Spec) []string {
	if s.Local > 0 {
		return []string{localName}
	}
	u, err := url.Parse(s.Addr)
	if err != nil {
		return nil
	}
	if u.Scheme == dockerScheme && u.Hostname() == "" {
		return []string{dockerScheme}
	}
	if u.Scheme == "unix" || u.Scheme == "npipe" {
		base := filepath.Base(u.Path)
		if base = strings.TrimSuffix(base, filepath.Ext(base)); base == "buildkitd" || !validName(base) {
			return nil
		}
		return []string{base}
	}
	host := u.Hostname()
	if !validName(host) || host == "localhost" || net.ParseIP(host) != nil {
		return nil
	}
	first, _, _ := strings.Cut(host, ".")
	return []string{first, host}
}

func validName(name string) bool {
	var s Spec
	return name != "" && s.setName(name) == nil
}
