package partition

// Kind is the kind of a task, which decides the resource of its node that it occupies.
type Kind uint8

const (
	Exec   Kind = iota // runs a vertex in one of the node's slots
	Export             // sends a result up the node's link
	Pull               // takes a result down the node's link
)

func (k Kind) String() string {
	switch k {
	case Exec:
		return "exec"
	case Export:
		return "export"
	case Pull:
		return "fetch"
	}
	return "unknown"
}

// Task is one piece of work with its predicted times.
type Task struct {
	Kind   Kind
	Vertex VertexID
	Node   NodeID
	Start  Seconds
	End    Seconds
}

// Load sums up one node.
type Load struct {
	Targets  int
	Executed int
	Fetched  int
	Exported int
	Busy     Seconds // slot time used by Exec tasks
	Finish   Seconds // end of the node's last task
}

// Schedule is the execution of an Assignment over time.
type Schedule struct {
	Makespan Seconds
	// Tasks are in order of vertex; within a vertex executions by node, then the
	// export, then the fetches by node.
	Tasks []Task
	// Nodes is indexed by NodeID.
	Nodes []Load
	// Done is when each target's root is held on its node, indexed by TargetID.
	Done []Seconds
	// Executed and Duplicated are in seconds at speed 1: all executions, and those
	// beyond the first of each vertex.
	Executed   Seconds
	Duplicated Seconds

	before []int // per task: the task whose end it waited for, -1 if it started at 0 or when its node came
}

// CriticalPath returns the indices of the tasks that decide the makespan, first
// to last: each one started when the one before ended, because it needed its
// result or its slot or link. It is empty for an empty schedule and for one that
// Evaluate did not return.
func (s Schedule) CriticalPath() []int {
	if len(s.before) != len(s.Tasks) || len(s.Tasks) == 0 {
		return nil
	}
	last := 0
	for i, t := range s.Tasks {
		if t.End > s.Tasks[last].End {
			last = i
		}
	}
	var path []int
	for i := last; i >= 0; i = s.before[i] {
		path = append(path, i)
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}
