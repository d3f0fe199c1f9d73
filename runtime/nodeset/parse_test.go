package nodeset

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values []string
		want   []Spec
	}{
		{"one", []string{"tcp://10.0.0.5:1234"}, []Spec{{Name: "n1", Addr: "tcp://10.0.0.5:1234"}}},
		{"trailing slash", []string{"tcp://10.0.0.5:1234/"}, []Spec{{Name: "n1", Addr: "tcp://10.0.0.5:1234"}}},
		{"ipv6", []string{"tcp://[::1]:1234"}, []Spec{{Name: "n1", Addr: "tcp://[::1]:1234"}}},
		{"options", []string{"gpu=tcp://gpu.example.com:1234,speed=2.5,slots=4"},
			[]Spec{{Name: "gpu", Addr: "tcp://gpu.example.com:1234", Speed: 2.5, Slots: 4}}},
		{"name as option", []string{"tcp://10.0.0.5:1234,name=five"}, []Spec{{Name: "five", Addr: "tcp://10.0.0.5:1234"}}},
		{"platforms are normalised and merged", []string{"tcp://a:1,platforms=linux/amd64;linux/arm64/v8,platforms=linux/arm/v7;linux/amd64"},
			[]Spec{{Name: "a", Addr: "tcp://a:1", Platforms: []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}}}},
		{"tls", []string{"tcp://bk:1,cacert=ca.pem,cert=c.pem,key=k.pem,servername=bk.internal"},
			[]Spec{{Name: "bk", Addr: "tcp://bk:1", TLS: &TLS{CACert: "ca.pem", Cert: "c.pem", Key: "k.pem", ServerName: "bk.internal"}}}},
		{"local", []string{"local:3,slots=2"}, []Spec{{Name: "local", Local: 3, Slots: 2}}},
		{"local is one", []string{"local"}, []Spec{{Name: "local", Local: 1}}},
		{"named local", []string{"here=local:2"}, []Spec{{Name: "here", Local: 2}}},
		{"white space separates", []string{"tcp://a:1 tcp://b:1\n\ttcp://c:1,speed=2\n"},
			[]Spec{{Name: "a", Addr: "tcp://a:1"}, {Name: "b", Addr: "tcp://b:1"}, {Name: "c", Addr: "tcp://c:1", Speed: 2}}},
		{"a comma before an address separates", []string{"tcp://a:1,speed=2,x=tcp://b:1,local:2"},
			[]Spec{{Name: "a", Addr: "tcp://a:1", Speed: 2}, {Name: "x", Addr: "tcp://b:1"}, {Name: "local", Local: 2}}},
		{"repeated flag", []string{"tcp://a:1", "tcp://b:1"}, []Spec{{Name: "a", Addr: "tcp://a:1"}, {Name: "b", Addr: "tcp://b:1"}}},
		{"other schemes", []string{
			"unix:///run/buildkit/buildkitd.sock unix:///run/user/1000/rootless.sock ssh://build@arm.example.com:22/run/bk.sock",
			"docker-container://bk0?context=desktop-linux kube-pod://bk-1?namespace=ci&container=buildkitd"},
			[]Spec{
				{Name: "n1", Addr: "unix:///run/buildkit/buildkitd.sock"},
				{Name: "rootless", Addr: "unix:///run/user/1000/rootless.sock"},
				{Name: "arm", Addr: "ssh://build@arm.example.com:22/run/bk.sock"},
				{Name: "bk0", Addr: "docker-container://bk0?context=desktop-linux"},
				{Name: "bk-1", Addr: "kube-pod://bk-1?namespace=ci&container=buildkitd"},
			}},
		{"docker engines", []string{"docker:// docker://desktop-linux,speed=2"},
			[]Spec{{Name: "docker", Addr: "docker://"}, {Name: "desktop-linux", Addr: "docker://desktop-linux", Speed: 2}}},
		{"names stay distinct", []string{"tcp://bk.a.com:1 tcp://bk.b.com:1 tcp://bk.b.com:2 n3=tcp://10.0.0.1:1 tcp://127.0.0.1:5 tcp://localhost:5"},
			[]Spec{
				{Name: "bk", Addr: "tcp://bk.a.com:1"},
				{Name: "bk.b.com", Addr: "tcp://bk.b.com:1"},
				{Name: "n4", Addr: "tcp://bk.b.com:2"},
				{Name: "n3", Addr: "tcp://10.0.0.1:1"},
				{Name: "n5", Addr: "tcp://127.0.0.1:5"},
				{Name: "n6", Addr: "tcp://localhost:5"},
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.values)
			require.NoError(t, err)
			for i := range tc.want {
				if tc.want[i].Speed == 0 {
					tc.want[i].Speed = 1
				}
				tc.want[i].Source = SourceFlag
			}
			require.Equal(t, tc.want, got)
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ value, want string }{
		{"", "--nodes names no node; write for example --nodes tcp://10.0.0.5:1234 or --nodes local:2"},
		{"10.0.0.5:1234", "--nodes 10.0.0.5:1234: the address has no scheme; for a daemon on the network write tcp://10.0.0.5:1234"},
		{"/run/bk.sock", "--nodes /run/bk.sock: the address has no scheme; for a socket write unix:///run/bk.sock"},
		{"pool", `--nodes pool: "pool" is not an address; write for example tcp://pool:1234, or --builder pool for a builder of buildx`},
		{"a=", "--nodes a=: the address is missing; write for example tcp://10.0.0.5:1234"},
		{"=tcp://a:1", "--nodes =tcp://a:1: the name before = is empty; write NAME=ADDRESS or only ADDRESS"},
		{"-a=tcp://a:1", `--nodes -a=tcp://a:1: "-a" cannot name a node; use letters, digits, '.', '_' and '-', as in gpu-1=tcp://10.0.0.5:1234`},
		{"http://a:1", `--nodes http://a:1: unknown kind of address "http://"; known are local:N, tcp://, unix://, docker://, npipe://, ssh://, docker-container://, kube-pod://`},
		{"tcp://a", "--nodes tcp://a: the address has no port; write tcp://a:1234 if buildkitd listens on 1234"},
		{"tcp://[fe80::1]", "--nodes tcp://[fe80::1]: the address has no port; write tcp://[fe80::1]:1234 if buildkitd listens on 1234"},
		{"tcp://a:0", "--nodes tcp://a:0: 0 is not a port; ports are 1 to 65535"},
		{"tcp://a:x", `--nodes tcp://a:x: not an address: invalid port ":x" after host`},
		{"tcp://a:1/x", "--nodes tcp://a:1/x: a tcp address is a host and a port, as in tcp://10.0.0.5:1234"},
		{"unix://run/bk.sock", "--nodes unix://run/bk.sock: the path of the socket must be absolute; write unix:///run/bk.sock if that is its place"},
		{"ssh://", "--nodes ssh://: nothing is named after ssh://; write ssh://user@host"},
		{"docker-container://-v", `--nodes docker-container://-v: "-v" cannot be a host, container or pod`},
		{"local:0", `--nodes local:0: "0" is not a number of local nodes; write local:N with N from 1 to 64`},
		{"local:1234", `--nodes local:1234: "1234" is not a number of local nodes; write local:N with N from 1 to 64`},
		{"speed=2,tcp://a:1", "--nodes speed=2: the address must come before the options, as in tcp://10.0.0.5:1234,speed=2"},
		{"tcp://a:1,spede=2", `--nodes tcp://a:1,spede=2: unknown option "spede"; known are name, speed, slots, platforms, cacert, cert, key, servername`},
		{"tcp://a:1,", "--nodes tcp://a:1,: there is nothing between two commas, or after the last"},
		{"tcp://a:1,speed", "--nodes tcp://a:1,speed: option speed has no value; write speed=…"},
		{"tcp://a:1,speed=0", "--nodes tcp://a:1,speed=0: speed=0: speed is a number above 0, relative to a node of speed 1, as in speed=1.5"},
		{"tcp://a:1,speed=NaN", "--nodes tcp://a:1,speed=NaN: speed=NaN: speed is a number above 0, relative to a node of speed 1, as in speed=1.5"},
		{"tcp://a:1,slots=x", "--nodes tcp://a:1,slots=x: slots=x: slots is the number of steps to run at once, 1 to 1024"},
		{"tcp://a:1,slots=1,slots=2", "--nodes tcp://a:1,slots=1,slots=2: option slots is given twice"},
		{"x=tcp://a:1,name=y", "--nodes x=tcp://a:1,name=y: the node is named twice, x and y"},
		{"tcp://a:1,cert=c", "--nodes tcp://a:1,cert=c: cert is given without key; a client certificate needs both"},
		{"ssh://a,cacert=c", "--nodes ssh://a,cacert=c: cacert, cert, key and servername are for tcp:// addresses only"},
		{"local:2,cacert=c", "--nodes local:2,cacert=c: cacert, cert, key and servername are for tcp:// addresses only"},
		{"a=tcp://a:1 a=tcp://b:1", "--nodes a=tcp://b:1: another node has the name a already"},
		{"tcp://a:1 tcp://A:1", "--nodes tcp://A:1: another node has this address already; give a daemon's capacity by slots=N"},
		{"local:1 local:2", "--nodes local:2: local nodes are asked for twice; add the numbers up in one local:N"},
		{"pool tcp://a", "--nodes pool: \"pool\" is not an address; write for example tcp://pool:1234, or --builder pool for a builder of buildx\n" +
			"--nodes tcp://a: the address has no port; write tcp://a:1234 if buildkitd listens on 1234"},
	} {
		t.Run(tc.value, func(t *testing.T) {
			_, err := Parse([]string{tc.value})
			require.EqualError(t, err, tc.want)
		})
	}
	_, err := Parse([]string{"tcp://a:1,platforms=linux/amd64;&"})
	require.ErrorContains(t, err, "separate platforms by semicolons, as in platforms=linux/amd64;linux/arm64")
}

// What Parse accepts it names uniquely, and its nodes can be given again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"tcp://10.0.0.5:1234", "a=tcp://b:1,speed=2,slots=3,platforms=linux/amd64;linux/arm64", "local:3", "local",
		"unix:///run/x.sock,name=x tcp://[::1]:1,cacert=a,cert=b,key=c,servername=d", "ssh://u@h:22/p,kube-pod://p?namespace=n",
		"docker-container://c?context=x=y", "npipe:////./pipe/x", "=,=,", "tcp://a:1,tcp://a:2 n2=tcp://b:1", "tcp://%zz:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		specs, err := Parse([]string{value})
		if err != nil {
			require.NotEmpty(t, err.Error())
			require.Empty(t, specs)
			return
		}
		require.NotEmpty(t, specs)
		names := map[string]bool{}
		var again []string
		for _, s := range specs {
			require.NotEmpty(t, s.Name)
			require.False(t, names[s.Name], "name %s twice", s.Name)
			names[s.Name] = true
			require.Greater(t, s.Speed, 0.0)
			require.NotEqual(t, s.Addr == "", s.Local == 0)
			require.False(t, strings.ContainsAny(s.Name, " ,=:/"))
			again = append(again, s.String())
		}
		specs2, err := Parse(again)
		require.NoError(t, err)
		require.Len(t, specs2, len(specs))
		for i := range specs {
			require.Equal(t, specs[i].Name, specs2[i].Name)
			require.Equal(t, specs[i].Addr, specs2[i].Addr)
			require.Equal(t, specs[i].Local, specs2[i].Local)
		}
	})
}
